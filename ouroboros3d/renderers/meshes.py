"""Textured meshes and their ground-truth images: unlit base colour, alpha, depth, coordinates and normals."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.renderers.mesh_shading import Shader
from ouroboros3d.renderers.mesh_tiles import (
    SMALL,
    Fragments,
    bin_faces,
    faces_on_screen,
    nearest,
    rasterize,
    rasterize_small,
)
from ouroboros3d.renderers.rendering import Rendering
from ouroboros3d.renderers.textured_mesh import Material, TexturedMesh

__all__ = ["Material", "MeshRenderer", "TexturedMesh"]

_NEAR = 1e-4  # scene units; objects lie inside the orbit, so faces this near are behind the camera or degenerate
_LAYERS = (4, 16, 64)  # see-through meshes: layers tried until no pixel lets more light through than _OPAQUE_ENOUGH
_OPAQUE_ENOUGH = 1 / 512  # half a step of an 8-bit image
# Bounds on the memory of one pass, each of a few hundred MB.
_MAX_SUBPIXELS = 4 * 2**20
_MAX_FACES_ON_SCREEN = 4 * 2**20
_MAX_BOX_PIXELS = 32 * 2**20
_MAX_TILE_LAYERS = 2**16


class MeshRenderer:
    """Renders a mesh from many cameras: what reconstructions are compared with.

    Colours are the unlit base colour: vertex colour, factor and texture multiplied in linear light, then sRGB. Several
    samples a pixel are averaged as premultiplied sRGB, the convention in which images are composited and resized.
    Normals are those of the faces, turned to the camera. Faces are seen from both sides whatever the material says,
    as in Blender, because the winding of collected models is often wrong. Cameras stand outside of the object: faces
    that reach behind a camera are left out of its image.

    Args:
        supersampling: samples a pixel along each axis.
        light: 0 = unlit, 1 = headlight only (colour times |cosine| between normal and view ray, in linear light).

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(self, supersampling: int = 2, light: float = 0.0) -> None:
        if supersampling < 1:
            raise ValueError(f"supersampling: expected 1 or more samples along each axis, got {supersampling}.")
        if not 0 <= light <= 1:
            raise ValueError(f"light: expected 0 (unlit) to 1 (headlight only), got {light}.")
        self.supersampling = supersampling
        self.light = light

    @torch.no_grad()
    def __call__(
        self,
        mesh: TexturedMesh,
        cameras: Cameras,
        height: int,
        width: int,
        background: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> Rendering:
        """Images of one mesh, composited on a colour.

        Args:
            mesh: the object; everything is returned in its frame.
            cameras: [V].
            height: pixels.
            width: pixels.
            background: sRGB in [0, 1].

        Returns:
            Rendering with B = 1; `truncated_fraction` counts pixels with more see-through layers than were kept.
        """
        sums, truncated = self._render(mesh, cameras, height, width)
        premultiplied, alpha = sums[:, :3], sums[:, 3:4]
        paper = torch.tensor(background, dtype=sums.dtype, device=sums.device)[:, None, None]
        return _rendering(premultiplied + (1 - alpha) * paper, sums, truncated)

    @torch.no_grad()
    def straight(self, mesh: TexturedMesh, cameras: Cameras, height: int, width: int) -> Rendering:
        """The images that a call gives, but with a `colour` that is not composited.

        cat([colour, alpha]) is the RGBA with straight alpha that files hold.

        Where alpha is 0 the colour is that of the nearest covered surroundings, so that resizing without
        premultiplying draws no dark rim.
        """
        sums, truncated = self._render(mesh, cameras, height, width)
        return _rendering(_fill_empty(sums[:, :3], sums[:, 3:4]), sums, truncated)

    def _render(self, mesh: TexturedMesh, cameras: Cameras, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Per-pixel averages [V, 11, H, W] (colour * a, a, depth * a, point * a, normal * a); truncated fraction []."""
        if len(cameras.shape) != 1 or cameras.shape[0] == 0:
            raise ValueError(f"cameras: expected leading shape [V], got {list(cameras.shape)}; reshape them.")
        shader = Shader(mesh, self.light)
        samples = self.supersampling
        step = _MAX_SUBPIXELS // (height * width * samples**2)
        step = max(1, min(step, _MAX_FACES_ON_SCREEN // len(mesh.faces)))
        parts, truncated, covered = [], 0, 0
        for start in range(0, cameras.shape[0], step):
            some = cameras[start : start + step]
            sums = torch.zeros(some.shape[0] * height * width, 11, device=mesh.vertices.device)
            for fragments, values, cut in self._samples(shader, mesh, some, height, width):
                line, column = fragments.pixel // (width * samples), fragments.pixel % (width * samples)
                sums.index_add_(0, line // samples * width + column // samples, values)
                truncated += int(cut.sum())
                covered += len(cut)
            parts.append(sums.reshape(-1, height, width, 11))
        means = torch.cat(parts).permute(0, 3, 1, 2) / samples**2
        return means, torch.tensor(truncated / max(covered, 1), device=means.device)

    def _samples(
        self, shader: Shader, mesh: TexturedMesh, cameras: Cameras, height: int, width: int
    ) -> Iterator[tuple[Fragments, Tensor, Tensor]]:
        """Covered samples of views that fit into memory, their values [M, 11], and which were truncated [M]."""
        size = height * self.supersampling, width * self.supersampling
        uv, depth = cameras.project(mesh.vertices)
        xy = uv * torch.tensor([size[1], size[0]], dtype=uv.dtype, device=uv.device)
        screen = faces_on_screen(xy, depth, mesh.faces, *size, _NEAR)
        if shader.opaque:
            small = (screen.box_sides <= SMALL).all(dim=1)
            found: list[Fragments] = []
            for part in screen.select(small).split(_MAX_BOX_PIXELS):
                found.append(rasterize_small(part, *size))
                # Merged part by part: at most one fragment a pixel stays, however many surfaces lie behind each other.
                found = [nearest(found, cameras.shape[0] * size[0] * size[1])]
            for part in screen.select(~small).split(_MAX_BOX_PIXELS):
                found.append(rasterize(bin_faces(part, *size), *size, layers=1))
                found = [nearest(found, cameras.shape[0] * size[0] * size[1])]
            for fragments in found:
                values, _ = shader(fragments, cameras, *size)
                yield fragments, values, torch.zeros_like(fragments.pixel, dtype=torch.bool)
            return
        bins = bin_faces(screen, *size)
        for layers in _LAYERS:
            retries = []
            for tiles in bins.split(_MAX_TILE_LAYERS // layers):
                fragments = rasterize(tiles, *size, layers)
                values, light_left = shader(fragments, cameras, *size)
                cut = (fragments.face[:, -1] >= 0) & (light_left > _OPAQUE_ENOUGH)
                retry = torch.zeros(len(tiles.first), dtype=torch.bool, device=uv.device)
                if layers < _LAYERS[-1]:
                    retry[fragments.tile[cut]] = True
                retries.append(retry)
                done = (~retry[fragments.tile]).nonzero()[:, 0]
                yield fragments.select(done), values[done], cut[done]
            bins = bins.select(torch.cat([*retries, torch.zeros(0, dtype=torch.bool, device=uv.device)]))


def _rendering(colour: Tensor, sums: Tensor, truncated: Tensor) -> Rendering:
    """Divide what was accumulated by alpha, where there is enough of it, and add the axis B = 1."""
    alpha = sums[:, 3:4]
    solid = alpha >= 0.5
    mean = torch.where(solid, sums[:, 4:] / alpha.clamp(min=0.5), 0.0)
    return Rendering(
        colour=colour.clamp(0, 1)[None],
        alpha=alpha.clamp(0, 1)[None],
        depth=mean[None, :, :1],
        coordinates=mean[None, :, 1:4],
        truncated_fraction=truncated,
        normals=F.normalize(mean[:, 4:], dim=1)[None],
    )


def _fill_empty(premultiplied: Tensor, alpha: Tensor) -> Tensor:
    """Straight colour [V, 3, H, W]; pixels without alpha take the mean of the smallest covered surroundings."""
    colour = premultiplied / alpha.clamp(min=1e-6)
    empty = alpha == 0
    if max(alpha.shape[-2:]) == 1 or not bool(empty.any()):
        return colour
    # A pyramid of halved images: whatever is empty at one level is answered by the next.
    coarse = _fill_empty(F.avg_pool2d(premultiplied, 2, ceil_mode=True), F.avg_pool2d(alpha, 2, ceil_mode=True))
    nearest = F.interpolate(coarse, scale_factor=2, mode="nearest")[..., : alpha.shape[-2], : alpha.shape[-1]]
    return torch.where(empty, nearest, colour)
