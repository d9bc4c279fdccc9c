"""Textured meshes and their ground-truth images: unlit base colour, alpha, depth, coordinates and normals."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ouroboros3d.cameras import Cameras
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
from ouroboros3d.renderers.textures import TextureTable, WrapMode, linear_to_srgb

AlphaMode = Literal["OPAQUE", "MASK", "BLEND"]
_ALPHA_MODES: tuple[AlphaMode, ...] = ("OPAQUE", "MASK", "BLEND")
_NEAR = 1e-4  # scene units; objects lie inside the orbit, so faces this near are behind the camera or degenerate
_LAYERS = (4, 16, 64)  # see-through meshes: layers tried until no pixel lets more light through than _OPAQUE_ENOUGH
_OPAQUE_ENOUGH = 1 / 512  # half a step of an 8-bit image
_MAX_SUBPIXELS = 4 * 2**20  # per pass, which bounds the memory to about 1 GB
_BOUNDING_RADIUS = 0.58  # what the default rig never crops, in any rotation


@dataclass(frozen=True)
class Material:
    """What a face looks like, in glTF's terms.

    Args:
        base_colour_linear: factor of the texture, linear RGB and alpha, in [0, 1].
        texture: [H, W, 4] uint8 sRGB and straight alpha, or None for white.
        wrap: horizontal and vertical wrap mode of the texture.
        alpha_mode: OPAQUE ignores every alpha, MASK cuts it at `alpha_cutoff`, BLEND composites.
        alpha_cutoff: MASK draws where alpha is at least this.
        double_sided: as stored; the renderer shows both sides unless told otherwise.
    """

    base_colour_linear: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    texture: Tensor | None = None
    wrap: tuple[WrapMode, WrapMode] = ("repeat", "repeat")
    alpha_mode: AlphaMode = "OPAQUE"
    alpha_cutoff: float = 0.5
    double_sided: bool = False


@dataclass(frozen=True)
class TexturedMesh:
    """One object: all its triangles in one list, in world axes +Y up (glTF's own).

    Args:
        vertices: [P, 3] float32, scene units.
        faces: [F, 3] int64.
        uv: [F, 3, 2] float32 glTF texture coordinates of each face's corners, (0, 0) the image's upper left corner.
        material_index: [F] int64 into `materials`.
        materials: at least one.
        vertex_colours_linear: [P, 4] float32 linear RGB and alpha factors in [0, 1], or None for white.
    """

    vertices: Tensor
    faces: Tensor
    uv: Tensor
    material_index: Tensor
    materials: tuple[Material, ...]
    vertex_colours_linear: Tensor | None = None

    @property
    def corners(self) -> Tensor:
        """[F, 3, 3] corners of each face."""
        return self.vertices[self.faces]

    def normalised(self) -> tuple["TexturedMesh", float, Tensor]:
        """The mesh with its box centred at the origin, in the cube [-0.5, 0.5]^3 and in the sphere of radius 0.58.

        Returns:
            the mesh, `scale` and `offset` [3] (float64), with x_normalised = scale * x + offset.
        """
        used = self.vertices[self.faces.unique()].double()
        low, high = used.amin(dim=0), used.amax(dim=0)
        centre = (low + high) / 2
        radius = (used - centre).norm(dim=1).max()
        scale = torch.minimum(1 / (high - low).max(), _BOUNDING_RADIUS / radius).item()
        vertices = ((self.vertices.double() - centre) * scale).float()
        return replace(self, vertices=vertices), scale, -scale * centre

    def to(self, device: torch.device | str) -> "TexturedMesh":
        """The mesh on another device."""
        colours = self.vertex_colours_linear
        return TexturedMesh(
            self.vertices.to(device),
            self.faces.to(device),
            self.uv.to(device),
            self.material_index.to(device),
            tuple(replace(m, texture=None if m.texture is None else m.texture.to(device)) for m in self.materials),
            None if colours is None else colours.to(device),
        )


class MeshRenderer:
    """Renders a mesh from many cameras: what reconstructions are compared with.

    Colours are the unlit base colour: vertex colour, factor and texture multiplied in linear light, then sRGB. Several
    samples a pixel are averaged as premultiplied sRGB, the convention in which images are composited and resized.
    Normals are those of the faces, turned to the camera. Faces are seen from both sides whatever the material says,
    as in Blender, because the winding of collected models is often wrong.

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
        """As calling it, with `colour` not composited: cat([colour, alpha]) is the straight-alpha RGBA to store.

        Where alpha is 0 the colour is that of the nearest covered surroundings, so that resizing without
        premultiplying draws no dark rim.
        """
        sums, truncated = self._render(mesh, cameras, height, width)
        return _rendering(_fill_empty(sums[:, :3], sums[:, 3:4]), sums, truncated)

    def _render(self, mesh: TexturedMesh, cameras: Cameras, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Per-pixel averages [V, 11, H, W] (colour * a, a, depth * a, point * a, normal * a); truncated fraction []."""
        if len(cameras.shape) != 1:
            raise ValueError(f"cameras: expected leading shape [V], got {list(cameras.shape)}; reshape them.")
        shader = _Shader(mesh, self.light)
        step = max(1, _MAX_SUBPIXELS // (height * width * self.supersampling**2))
        parts, truncated, covered = [], 0, 0
        for start in range(0, cameras.shape[0], step):
            part, counts = self._render_some(shader, mesh, cameras[start : start + step], height, width)
            parts.append(part)
            truncated, covered = truncated + counts[0], covered + counts[1]
        return torch.cat(parts), torch.tensor(truncated / max(covered, 1), device=mesh.vertices.device)

    def _render_some(
        self, shader: "_Shader", mesh: TexturedMesh, cameras: Cameras, height: int, width: int
    ) -> tuple[Tensor, tuple[int, int]]:
        """`_render` for views that fit into memory; also how many samples were truncated and covered."""
        samples = self.supersampling
        views, fine_height, fine_width = cameras.shape[0], height * samples, width * samples
        uv, depth = cameras.project(mesh.vertices)
        size = torch.tensor([fine_width, fine_height], dtype=uv.dtype, device=uv.device)
        screen = faces_on_screen(uv * size, depth, mesh.faces, fine_height, fine_width, _NEAR)
        sums = torch.zeros(views * height * width, 11, device=uv.device)

        def add(fragments: Fragments, values: Tensor) -> None:
            line, column = fragments.pixel // fine_width, fragments.pixel % fine_width
            sums.index_add_(0, line // samples * width + column // samples, values)

        truncated = covered = 0
        if shader.opaque:
            small = (screen.box_sides <= SMALL).all(dim=1)
            large = rasterize(bin_faces(screen.select(~small), fine_height, fine_width), fine_height, fine_width, 1)
            tiny = rasterize_small(screen.select(small), fine_height, fine_width)
            fragments = nearest((large, tiny), views * fine_height * fine_width)
            add(fragments, shader(fragments, cameras.centres[fragments.pixel // (fine_height * fine_width)])[0])
        else:
            bins = bin_faces(screen, fine_height, fine_width)
            for layers in _LAYERS:
                fragments = rasterize(bins, fine_height, fine_width, layers)
                values, light_left = shader(fragments, cameras.centres[fragments.pixel // (fine_height * fine_width)])
                cut = (fragments.face[:, -1] >= 0) & (light_left > _OPAQUE_ENOUGH)
                retry = torch.zeros(len(bins.first), dtype=torch.bool, device=uv.device)
                if layers < _LAYERS[-1]:
                    retry[fragments.tile[cut]] = True
                done = ~retry[fragments.tile]
                truncated += int((cut & done).sum())
                covered += int(done.sum())
                add(fragments.select(done.nonzero()[:, 0]), values[done])
                bins = bins.select(retry)
        sums = sums.reshape(views, height, width, 11).permute(0, 3, 1, 2) / samples**2
        return sums, (truncated, covered)


class _Shader:
    """Colours fragments of one mesh; the tables it needs are built once for all views."""

    def __init__(self, mesh: TexturedMesh, light: float) -> None:
        device = mesh.vertices.device
        self.mesh, self.light = mesh, light
        self.corners = mesh.corners
        self.normals = F.normalize(
            torch.linalg.cross(self.corners[:, 1] - self.corners[:, 0], self.corners[:, 2] - self.corners[:, 0]), dim=1
        )
        colours = mesh.vertex_colours_linear
        self.vertex_colours = None if colours is None else colours[mesh.faces]
        materials = mesh.materials
        self.factor = torch.tensor([m.base_colour_linear for m in materials], device=device)
        self.alpha_mode = torch.tensor([_ALPHA_MODES.index(m.alpha_mode) for m in materials], device=device)
        self.cutoff = torch.tensor([m.alpha_cutoff for m in materials], device=device)
        textures: list[Tensor] = []
        wraps: list[tuple[WrapMode, WrapMode]] = []
        self.texture_of_material = torch.full((len(materials),), -1, device=device)
        for index, material in enumerate(materials):
            if material.texture is not None:
                self.texture_of_material[index] = len(textures)
                textures.append(material.texture)
                wraps.append(material.wrap)
        self.textures = TextureTable.build(textures, wraps, device) if textures else None
        self.opaque = bool((self.alpha_mode[mesh.material_index] == 0).all())

    def __call__(self, fragments: Fragments, eyes: Tensor) -> tuple[Tensor, Tensor]:
        """Composite the layers of every pixel, nearest first.

        Args:
            fragments: M pixels.
            eyes: [M, 3] centre of the camera that looks at each.

        Returns:
            [M, 11] colour * a, a, depth * a, point * a, normal * a; and [M] light that passes all layers.
        """
        samples, layers = fragments.face.shape
        kept = (fragments.face.flatten() >= 0).nonzero()[:, 0]
        sample = kept // layers
        face = fragments.face.flatten().index_select(0, kept)
        barycentric = fragments.barycentric.reshape(-1, 3).index_select(0, kept)
        point = _interpolate(self.corners, face, barycentric)
        ray = point - eyes.index_select(0, sample)
        normal = self.normals.index_select(0, face)
        normal = torch.where((normal * ray).sum(dim=1, keepdim=True) > 0, -normal, normal)
        colour, alpha = self._linear_colour(face, barycentric)
        if self.light > 0:
            cosine = -(normal * F.normalize(ray, dim=1)).sum(dim=1, keepdim=True)
            colour = colour * (1 - self.light + self.light * cosine)
        colour = linear_to_srgb(colour.clamp(0, 1))
        depth = fragments.depth.flatten().index_select(0, kept)[:, None]
        values = torch.cat([colour, torch.ones_like(depth), depth, point, normal], dim=1)
        if self.opaque:
            return values, torch.zeros_like(alpha)
        alphas = torch.zeros(samples * layers, device=values.device).index_copy(0, kept, alpha).reshape(samples, layers)
        light_left = (1 - alphas).cumprod(dim=1)
        weight = alphas * torch.cat([torch.ones_like(light_left[:, :1]), light_left[:, :-1]], dim=1)
        total = torch.zeros(samples, values.shape[1], device=values.device)
        total.index_add_(0, sample, values * weight.flatten()[kept, None])
        return total, light_left[:, -1]

    def _linear_colour(self, face: Tensor, barycentric: Tensor) -> tuple[Tensor, Tensor]:
        """Linear RGB [M, 3] and the alpha that counts [M]."""
        material = self.mesh.material_index.index_select(0, face)
        colour = self.factor.index_select(0, material)
        if self.vertex_colours is not None:
            colour = colour * _interpolate(self.vertex_colours, face, barycentric).clamp(0, 1)
        if self.textures is not None:
            texture = self.texture_of_material.index_select(0, material)
            textured = (texture >= 0).nonzero()[:, 0]
            uv = _interpolate(self.mesh.uv, face.index_select(0, textured), barycentric.index_select(0, textured))
            texel = self.textures.sample(texture.index_select(0, textured), uv)
            colour = colour.index_copy(0, textured, colour.index_select(0, textured) * texel)
        mode, alpha = self.alpha_mode.index_select(0, material), colour[:, 3]
        cut = (alpha >= self.cutoff.index_select(0, material)).to(alpha.dtype)
        return colour[:, :3], torch.where(mode == 0, 1.0, torch.where(mode == 1, cut, alpha))


def _interpolate(of_corners: Tensor, face: Tensor, barycentric: Tensor) -> Tensor:
    """Values [M, C] at barycentric [M, 3] of faces [M], from of_corners [F, 3, C]."""
    return (barycentric[:, None, :] @ of_corners.index_select(0, face))[:, 0]


def _rendering(colour: Tensor, sums: Tensor, truncated: Tensor) -> Rendering:
    """Divide what was accumulated by alpha, where there is enough of it, and add the axis B = 1."""
    alpha = sums[:, 3:4]
    solid = alpha > 0.5
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
