"""Differentiable Gaussian splatting on PyTorch3D's point rasterizer."""

from typing import Literal

import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.renderers.compositing import composite_tiles
from ouroboros3d.renderers.fragments import composite_fragments
from ouroboros3d.renderers.projection import project
from ouroboros3d.renderers.rendering import Rendering
from ouroboros3d.renderers.gaussian_tiles import bin_splats


class GaussianRenderer:
    """Splats Gaussians front to back with exact anisotropic weights, differentiable in every Gaussian parameter.

    Screen-space Gaussians are binned into square tiles; each tile is handed to PyTorch3D's point rasterizer as an image
    of its own, which finds the nearest K splats of every pixel. K starts small and grows for the tiles that need more.

    Args:
        low_pass: variance added to the 2D Gaussians on both image axes, px^2 (3DGS: 0.3).
        near: Gaussians with their mean nearer than this are invisible, scene units along z.
        tile_size: pixels on the side of a tile.
        points_per_pixel: the K to start with.
        max_points_per_pixel: the largest K; what it cuts is reported as `Rendering.truncated_fraction`.
    """

    def __init__(
        self,
        low_pass: float = 0.3,
        near: float = 0.01,
        tile_size: int = 8,
        points_per_pixel: int = 16,
        max_points_per_pixel: int = 1024,
        backend: Literal["pytorch3d", "torch"] = "pytorch3d",
    ) -> None:
        if not 0 < points_per_pixel <= max_points_per_pixel:
            raise ValueError(
                f"points_per_pixel: expected 1 to max_points_per_pixel = {max_points_per_pixel}, got {points_per_pixel}."
            )
        self.low_pass = low_pass
        self.backend = backend
        self.near = near
        self.tile_size = tile_size
        self.points_per_pixel = points_per_pixel
        self.max_points_per_pixel = max_points_per_pixel

    def __call__(
        self, gaussians: Gaussians, cameras: Cameras, height: int, width: int, background: Tensor | None = None
    ) -> Rendering:
        """Render every object from its own cameras.

        Args:
            gaussians: [B, N]; N may be 0.
            cameras: [B, V]; gradients do not reach them.
            height: pixels.
            width: pixels.
            background: [B, 3] sRGB in [0, 1]; white where None.

        Returns:
            Rendering without normals, float32 (float64 for float64 Gaussians) under autocast too. Depth is the weighted
            mean of the Gaussians' z and coordinates that of their means, both where alpha > 0.5 and 0 elsewhere.

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
                    splats, lists, self.tile_size, self.points_per_pixel, self.max_points_per_pixel
                )
            else:
                sums = composite_tiles(splats.geometry.flatten(1), splats.features.flatten(1), lists, self.tile_size)
                truncated = sums.new_zeros(())
            # [T tiles, rows, columns, 8] into images, the part of border tiles beyond the image cut off.
            images = objects * views
            canvas = sums.new_zeros(images * lists.down * lists.across, self.tile_size, self.tile_size, 8)
            canvas = canvas.index_copy(0, lists.tile, sums)
            canvas = canvas.reshape(images, lists.down, lists.across, self.tile_size, self.tile_size, 8)
            canvas = canvas.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)[:, :, :height, :width]
            canvas = canvas.reshape(objects, views, 8, height, width)
            alpha = canvas[:, :, 7:]
            if background is None:
                background = alpha.new_ones(objects, 3)
            colour = canvas[:, :, :3] + (1 - alpha) * background.to(dtype)[:, None, :, None, None]
            solid = alpha > 0.5
            means = torch.where(solid, canvas[:, :, 3:7] / torch.where(solid, alpha, 1.0), 0.0)
            covered = (alpha > 0).sum().clamp_min(1)
            return Rendering(colour, alpha, means[:, :, :1], means[:, :, 1:], truncated / covered)
