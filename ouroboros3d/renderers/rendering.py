"""What every renderer returns, and the encoding of canonical coordinates as an image."""

from typing import NamedTuple

import torch
from torch import Tensor


class Rendering(NamedTuple):
    """Images of B objects from V cameras each.

    colour: [B, V, 3, H, W] sRGB, composited on the background asked for, in [0, 1] for colours in [0, 1].
    alpha: [B, V, 1, H, W] in [0, 1].
    depth: [B, V, 1, H, W] z along forward, scene units, divided by alpha; 0 where alpha < 0.5.
    coordinates: [B, V, 3, H, W] expected surface point in the scene's frame, scene units; 0 where alpha < 0.5.
    truncated_fraction: [] share of covered pixels whose list of splats was cut (0 = exact).
    normals: [B, V, 3, H, W] unit, scene's frame, facing the camera, 0 = empty; None from the Gaussian renderer.
    """

    colour: Tensor
    alpha: Tensor
    depth: Tensor
    coordinates: Tensor
    truncated_fraction: Tensor
    normals: Tensor | None = None


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
