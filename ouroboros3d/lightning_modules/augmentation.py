"""LGM's augmentation of clean input views: it makes the reconstructor robust to views that do not quite agree."""

import math

import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix
from kornia.geometry.transform import remap
from torch import Tensor

from ouroboros3d.cameras import Cameras, full_precision


def augment_views(
    images_01: Tensor,
    cameras: Cameras,
    stream: torch.Generator,
    probability: float = 0.5,
    background: Tensor | None = None,
) -> tuple[Tensor, Cameras]:
    """Distort the images and jitter the cameras of views 1 to V - 1, each with a probability (3DTopia/LGM).

    Args:
        images_01: [B, V, 3, H, W] in [0, 1]; view 0, the real input, stays.
        cameras: [B, V].
        stream: of random numbers, on the CPU.
        probability: of the distortion, and independently of the jitter, for each object.
        background: [B, 3] what fills pixels drawn from outside an image; None = black.

    Returns:
        new images and cameras of the same shapes.
    """
    batch, views = images_01.shape[:2]
    distort = torch.rand(batch, generator=stream) < probability
    jitter = torch.rand(batch, generator=stream) < probability
    if views > 1 and bool(distort.any()):
        images_01 = images_01.clone()
        fill = torch.zeros(batch, 3, device=images_01.device) if background is None else background
        chosen = images_01[distort, 1:]
        base = fill[distort][:, None, :, None, None].expand_as(chosen)
        # remap fills the outside with zero, so the background is subtracted before and added after.
        warped = distort_grid((chosen - base).flatten(0, 1), stream).view_as(chosen) + base
        images_01[distort, 1:] = warped.clamp(0, 1)
    if views > 1 and bool(jitter.any()):
        c2w = cameras.c2w_opencv.clone()
        c2w[jitter, 1:] = jitter_orbit(cameras[jitter][:, 1:], stream).c2w_opencv
        cameras = Cameras(c2w, cameras.intrinsics_norm)
    return images_01, cameras


def distort_grid(images: Tensor, stream: torch.Generator, strength: float = 0.5) -> Tensor:
    """Stretch and squeeze rows and columns by random piecewise linear maps.

    Args:
        images: [M, C, H, W].
        stream: of random numbers, on the CPU.
        strength: largest shift of a control point, in distances between control points; below 1 nothing folds.

    Returns:
        [M, C, H, W], zero where a pixel is drawn from outside.
    """
    count, _, height, width = images.shape
    points = int(torch.randint(8, 17, (), generator=stream))

    def drawn_from(size: int) -> Tensor:
        shift = (torch.rand(count, 1, points, generator=stream) * 2 - 1) * strength / 2 * size / (points - 1)
        grid = torch.linspace(0, size - 1, points) + shift
        return torch.nn.functional.interpolate(grid, size=size, mode="linear", align_corners=True)[:, 0]

    map_x = drawn_from(width)[:, None, :].expand(count, height, width).to(images)
    map_y = drawn_from(height)[:, :, None].expand(count, height, width).to(images)
    return remap(images, map_x, map_y, mode="bilinear", padding_mode="zeros", align_corners=True)


def jitter_orbit(cameras: Cameras, stream: torch.Generator, strength: float = 0.1) -> Cameras:
    """Turn cameras [...] around the origin by random angles about their own y and x axes.

    Args:
        cameras: any leading axes.
        stream: of random numbers, on the CPU.
        strength: largest angle, in half turns about y and quarter turns about x.
    """
    flat = cameras.c2w_opencv.reshape(-1, 4, 4)
    angles = (torch.rand(2, flat.shape[0], 1, generator=stream) * 2 - 1).to(flat) * strength * math.pi
    turned = flat.clone()
    with full_precision(flat):
        about_y = axis_angle_to_rotation_matrix(flat[:, :3, 1] * angles[0])
        about_x = axis_angle_to_rotation_matrix(flat[:, :3, 0] * angles[1] / 2)
        turned[:, :3] = about_y @ about_x @ flat[:, :3]
    return Cameras(turned.reshape(cameras.c2w_opencv.shape), cameras.intrinsics_norm)
