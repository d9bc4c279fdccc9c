"""What every renderer returns, and the encoding of coordinates as an image."""

from typing import NamedTuple

import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras


class Rendering(NamedTuple):
    """Images of B objects from V cameras each.

    colour: [B, V, 3, H, W] sRGB, composited on the background asked for, in [0, 1] for colours in [0, 1].
    alpha: [B, V, 1, H, W] in [0, 1].
    depth: [B, V, 1, H, W] z along forward, scene units, divided by alpha; 0 where alpha < 0.5.
    coordinates: [B, V, 3, H, W] expected surface point in the scene's frame, scene units; 0 where alpha < 0.5.
    truncated_fraction: [] share of covered pixels whose list of splats was cut (0 = exact).
    normals: [B, V, 3, H, W] unit, scene's frame, facing the camera, 0 = empty; None from the Gaussian renderer.
    depth_sum: [B, V, 1, H, W] z summed with the compositing weights and NOT divided by alpha, scene units; only for
        `published_coordinates`. None from the mesh renderer.
    """

    colour: Tensor
    alpha: Tensor
    depth: Tensor
    coordinates: Tensor
    truncated_fraction: Tensor
    normals: Tensor | None = None
    depth_sum: Tensor | None = None


def encode_coordinates(coordinates: Tensor, alpha: Tensor, half_extent: float = 0.6) -> Tensor:
    """Canonical coordinate map as an image: [-half_extent, half_extent]^3 to [0, 1], zero where alpha < 0.5.

    Args:
        coordinates: [..., 3, H, W] scene units.
        alpha: [..., 1, H, W].
        half_extent: half the edge of the encoded cube; 0.6 holds every normalised object in any rotation.

    Returns:
        [..., 3, H, W] in [0, 1].
    """
    encoded = (coordinates / (2 * half_extent) + 0.5).clamp(0, 1)
    return torch.where(alpha >= 0.5, encoded, 0.0)


def published_coordinates(depth_sum: Tensor, cameras: Cameras) -> Tensor:
    """The coordinate map of the published code (Costwen/Ouroboros3D `get_position_map`), in [0, 1].

    Depth that was not divided by alpha is back-projected through pixel INDICES 0 to W - 1 with NORMALISED intrinsics,
    so that points lie up to hundreds of units away, and stored as 0.001 * xyz + 0.5, clamped. One axis hardly changes
    over the image. Kept because the published weights were trained with these values.

    Args:
        depth_sum: [B, V, 1, H, W] z summed with the compositing weights; where it is 0, empty, the map is exactly 0.5.
        cameras: [B, V].

    Returns:
        [B, V, 3, H, W].
    """
    height, width = depth_sum.shape[-2:]
    matrix = cameras.intrinsics_norm.to(depth_sum)[..., None, None, :, :]
    rows = torch.arange(height, device=depth_sum.device, dtype=depth_sum.dtype)[:, None]
    columns = torch.arange(width, device=depth_sum.device, dtype=depth_sum.dtype)
    z = depth_sum[:, :, 0]
    x = (columns - matrix[..., 0, 2]) / matrix[..., 0, 0] * z
    y = (rows - matrix[..., 1, 2]) / matrix[..., 1, 1] * z
    pose = cameras.c2w_opencv.to(depth_sum)
    # Not a matrix product, whose precision autocast would lower.
    points = (pose[..., :3, :3, None, None] * torch.stack([x, y, z], dim=2)[:, :, None]).sum(dim=3)
    points = torch.where(depth_sum > 0, points + pose[..., :3, 3, None, None], 0.0)
    return (0.001 * points + 0.5).clamp(0, 1)
