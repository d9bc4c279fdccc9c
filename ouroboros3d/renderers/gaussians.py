"""Differentiable Gaussian splatting: projection, tiles, compositing, images."""

import importlib.util
import logging
from dataclasses import replace
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.renderers.compositing import composite_tiles
from ouroboros3d.renderers.fragments import composite_fragments
from ouroboros3d.renderers.gaussian_tiles import TileLists, bin_splats
from ouroboros3d.renderers.projection import project
from ouroboros3d.renderers.rendering import Rendering

Backend = Literal["torch", "pytorch3d", "triton"]
_log = logging.getLogger(__name__)


class GaussianRenderer:
    """Splats Gaussians front to back with exact anisotropic weights, differentiable in every Gaussian parameter.

    A Gaussian's weight at a pixel is opacity * exp(-d^T C^-1 d / 2) with its EWA covariance C in the image, clamped at
    0.99, and dropped below 1/255 (Kerbl et al. 2023, 3DGS); depth order is that of the means. All backends compute the
    same images and gradients; they differ in how the splats of a pixel are found:

    - `torch`: splats are binned into square tiles and every tile's list is composited at once by matrix products. No
      limit on splats per pixel; the fastest on a CPU.
    - `pytorch3d`: each tile is handed to PyTorch3D's point rasterizer as an image of its own, which finds the K nearest
      splats of every pixel. K starts small and grows for the tiles that need more.
    - `triton`: the tiles' lists in fused CUDA kernels, not repeatable bit for bit, since gradients are added up in any
      order. Where there is no Triton or no CUDA device, `torch` takes over and a log line says so.

    Args:
        low_pass: variance added to the 2D Gaussians on both image axes, px^2 (3DGS: 0.3).
        near: Gaussians with their mean nearer than this are invisible, scene units along z, > 0.
        backend: see above.
        tile_size: pixels on the side of a tile.
        points_per_pixel: the K that `pytorch3d` starts with.
        max_points_per_pixel: the largest K of `pytorch3d` (at most 149 on CUDA); what it cuts is reported as
            `Rendering.truncated_fraction`.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(
        self,
        low_pass: float = 0.3,
        near: float = 0.01,
        backend: Backend = "torch",
        tile_size: int = 8,
        points_per_pixel: int = 16,
        max_points_per_pixel: int = 4096,
    ) -> None:
        if low_pass <= 0 or near <= 0 or tile_size <= 0:
            raise ValueError(f"low_pass, near, tile_size: expected > 0, got {low_pass}, {near}, {tile_size}.")
        if not 0 < points_per_pixel <= max_points_per_pixel:
            raise ValueError(
                f"points_per_pixel: expected 1 to max_points_per_pixel, got {points_per_pixel} and "
                f"{max_points_per_pixel}."
            )
        self.low_pass = low_pass
        self.near = near
        self.backend = backend
        self.tile_size = tile_size
        self.points_per_pixel = points_per_pixel
        self.max_points_per_pixel = max_points_per_pixel

    def __call__(
        self, gaussians: Gaussians, cameras: Cameras, height: int, width: int, background: Tensor | None = None
    ) -> Rendering:
        """Render every object from its own cameras.

        Args:
            gaussians: [B, N]; N may be 0.
            cameras: [B, V].
            height: pixels.
            width: pixels.
            background: [B, 3] sRGB in [0, 1]; white where None.

        Returns:
            Rendering without normals, in float32 under autocast too (float64 for float64 Gaussians). Depth is the
            weighted mean of the Gaussians' z and coordinates that of their means, both 0 where alpha < 0.5.

        Raises:
            ValueError: cameras and Gaussians of different numbers of objects, or a background of another shape.
        """
        objects, views = cameras.shape
        if gaussians.shape[0] != objects:
            raise ValueError(
                f"gaussians: expected B = {objects} objects as the cameras [B, V] = {[objects, views]} have, "
                f"got {gaussians.shape[0]}; expand or index one of the two."
            )
        if background is not None and tuple(background.shape) != (objects, 3):
            raise ValueError(f"background: expected [B, 3] = {[objects, 3]}, got {list(background.shape)}.")
        with torch.autocast(gaussians.means.device.type, enabled=False):
            dtype = torch.promote_types(gaussians.means.dtype, torch.float32)
            gaussians, cameras = gaussians.to(dtype=dtype), cameras.to(dtype=dtype)
            splats = project(gaussians, cameras, height, width, low_pass=self.low_pass, near=self.near)
            lists = bin_splats(splats, height, width, self.tile_size)
            if self.backend == "pytorch3d":
                sums, truncated = composite_fragments(
                    splats, lists, self.tile_size, height, width, self.points_per_pixel, self.max_points_per_pixel
                )
            else:
                composite = composite_tiles
                if self.backend == "triton" and _can_run_triton(splats.geometry.device.type):
                    from ouroboros3d.renderers.gaussians_triton import composite_tiles_triton as composite
                sums = composite(splats.geometry.flatten(1), splats.features.flatten(1), lists, self.tile_size)
                truncated = sums.new_zeros(())
            images = _assemble(sums, lists, objects * views, self.tile_size)[:, :, :height, :width]
            images = images.reshape(objects, views, 8, height, width)
            alpha = images[:, :, 7:]
            if background is None:
                background = alpha.new_ones(objects, 3)
            colour = images[:, :, :3] + (1 - alpha) * background.to(dtype)[:, None, :, None, None]
            solid = alpha >= 0.5
            means = torch.where(solid, images[:, :, 3:7] / torch.where(solid, alpha, 1.0), 0.0)
            depth, coordinates = means[:, :, :1], means[:, :, 1:]
            return Rendering(colour, alpha, depth, coordinates, truncated, depth_sum=images[:, :, 3:4])

    def filtered(self, gaussians: Gaussians, cameras: Cameras, height: int, width: int) -> Gaussians:
        """Gaussians that look in renders of any size as these do in those of one: the low-pass is in their scales.

        `low_pass` px^2 are another width in the scene at every image size. Whoever renders Gaussians larger than they
        were trained therefore sees gaps between them. Here the variance that the finest of the cameras adds is added to
        each Gaussian's own once and for all, low_pass * min over cameras of (z / f)^2 with the focal length f in
        pixels: the 3D filter of Mip-Splatting (Yu et al. 2024, eq. 7). Opacities stay, as the renderer leaves them.

        Args:
            gaussians: [B, N].
            cameras: [B, V] that the Gaussians were trained from.
            height: pixels of the training images.
            width: pixels of the training images.

        Returns:
            [B, N] with larger scales; those that no camera has in front of it keep theirs.
        """
        _, depth = cameras.to(gaussians.means.device, gaussians.means.dtype).project(gaussians.means[:, None])
        size = torch.tensor([width, height]).to(depth)
        focal = torch.diagonal(cameras.intrinsics_norm[..., :2, :2], dim1=-2, dim2=-1).to(depth) * size
        pixel = torch.where(depth > self.near, depth / focal.amax(-1)[..., None], torch.inf).amin(1)  # [B, N]
        variance = self.low_pass * torch.where(pixel.isfinite(), pixel, 0.0).square()
        return replace(gaussians, scales=(gaussians.scales.square() + variance[..., None]).sqrt())


@cache
def _can_run_triton(device: str) -> bool:
    """Whether the kernels run on this kind of device; says so once where they do not."""
    if device != "cuda":
        _log.warning("GaussianRenderer: the triton backend needs a CUDA device, got %s; using torch.", device)
    elif importlib.util.find_spec("triton") is None:
        _log.warning("GaussianRenderer: triton is not installed (pip install triton); using torch.")
    else:
        return True
    return False


def _assemble(sums: Tensor, lists: TileLists, images: int, tile_size: int) -> Tensor:
    """Images [M, 8, tiles down * tile_size, tiles across * tile_size] from the tiles' sums [T, 8, pixels]."""
    canvas = sums.new_zeros(images * lists.down * lists.across, 8, tile_size**2).index_copy(0, lists.tile, sums)
    canvas = canvas.view(images, lists.down, lists.across, 8, tile_size, tile_size)
    return canvas.permute(0, 3, 1, 4, 2, 5).reshape(images, 8, lists.down * tile_size, lists.across * tile_size)
