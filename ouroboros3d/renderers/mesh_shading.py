"""Base colour of mesh fragments, and the compositing of see-through layers."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.renderers.mesh_tiles import Fragments
from ouroboros3d.renderers.textured_mesh import AlphaMode, TexturedMesh
from ouroboros3d.renderers.textures import TextureTable, WrapMode, linear_to_srgb, uv_bounds

_ALPHA_MODES: tuple[AlphaMode, ...] = ("OPAQUE", "MASK", "BLEND")
_UV_LIMIT = 2.0**16  # repeats of a texture; float32 could not tell its texels apart much farther out
_MAX_TAPS = 4  # texture samples along each axis of a fragment; beyond that many texels, halved copies are read


class _Surface(NamedTuple):
    """M places on faces, each seen from a camera.

    face: [M].
    barycentric: [M, 3].
    normal: [M, 3] unit, turned to the camera.
    ray: [M, 3] from the camera's centre.
    depth: [M, 1].
    view: [M].
    """

    face: Tensor
    barycentric: Tensor
    normal: Tensor
    ray: Tensor
    depth: Tensor
    view: Tensor


class Shader:
    """Colours fragments of one mesh; the tables it needs are built once for all views.

    Args:
        mesh: the object.
        light: 0 = unlit, 1 = headlight only.
    """

    def __init__(self, mesh: TexturedMesh, light: float) -> None:
        device = mesh.vertices.device
        self.mesh, self.light = mesh, light
        self.corners = mesh.corners
        first, second, third = self.corners.unbind(dim=1)
        cross = torch.linalg.cross(second - first, third - first)
        self.normals = F.normalize(cross, dim=1)
        colours = mesh.vertex_colours_linear
        self.vertex_colours = None if colours is None else colours[mesh.faces]
        materials = mesh.materials
        self.factor = torch.tensor([m.base_colour_linear for m in materials], device=device)
        self.alpha_mode = torch.tensor([_ALPHA_MODES.index(m.alpha_mode) for m in materials], device=device)
        self.cutoff = torch.tensor([m.alpha_cutoff for m in materials], device=device)
        self.opaque = bool((self.alpha_mode[mesh.material_index] == 0).all())
        self.textures, self.texture_of_material = _texture_table(mesh)
        # How fast each barycentric grows along the world's axes, in the face's plane: N x opposite edge / |N|^2.
        edges = torch.stack([third - second, first - third, second - first], dim=1)
        squared = (cross**2).sum(dim=1)[:, None, None].clamp(min=1e-30)
        self.barycentric_gradient = torch.linalg.cross(cross[:, None].expand_as(edges), edges) / squared
        self.uv = mesh.uv.nan_to_num().clamp(-_UV_LIMIT, _UV_LIMIT)
        self.bounds = uv_bounds(self.uv, self.texture_of_material[mesh.material_index] + 1)

    def __call__(self, fragments: Fragments, cameras: Cameras, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Composite the layers of every pixel, nearest first.

        Args:
            fragments: M pixels of [V, H, W].
            cameras: [V].
            height: pixels.
            width: pixels.

        Returns:
            [M, 11] colour * a, a, depth * a, point * a, normal * a; and [M] light that passes all layers.
        """
        samples, layers = fragments.face.shape
        kept = (fragments.face.flatten() >= 0).nonzero()[:, 0]
        sample = kept // layers
        face = fragments.face.flatten().index_select(0, kept)
        barycentric = fragments.barycentric.reshape(-1, 3).index_select(0, kept)
        depth = fragments.depth.flatten().index_select(0, kept)[:, None]
        view = (fragments.pixel // (height * width)).index_select(0, sample)
        point = _interpolate(self.corners, face, barycentric)
        ray = point - cameras.centres.index_select(0, view)
        normal = self.normals.index_select(0, face)
        normal = torch.where((normal * ray).sum(dim=1, keepdim=True) > 0, -normal, normal)
        step = torch.tensor([width, height], device=ray.device) * cameras.intrinsics_norm[:, [0, 1], [0, 1]]
        pixel_axes = cameras.c2w_opencv[:, :3, :2].transpose(1, 2) / step[..., None]  # [V, 2, 3] at unit depth
        surface = _Surface(face, barycentric, normal, ray, depth, view)
        colour, alpha = self._linear_colour(surface, pixel_axes)
        if self.light > 0:
            cosine = -(normal * F.normalize(ray, dim=1)).sum(dim=1, keepdim=True)
            colour = colour * (1 - self.light + self.light * cosine)
        colour = linear_to_srgb(colour.clamp(0, 1))
        values = torch.cat([colour, torch.ones_like(depth), depth, point, normal], dim=1)
        if self.opaque:
            return values, torch.zeros_like(alpha)
        alphas = torch.zeros(samples * layers, device=values.device).index_copy(0, kept, alpha).reshape(samples, layers)
        light_left = (1 - alphas).cumprod(dim=1)
        weight = alphas * torch.cat([torch.ones_like(light_left[:, :1]), light_left[:, :-1]], dim=1)
        total = torch.zeros(samples, values.shape[1], device=values.device)
        total.index_add_(0, sample, values * weight.flatten()[kept, None])
        return total, light_left[:, -1]

    def _linear_colour(self, surface: _Surface, pixel_axes: Tensor) -> tuple[Tensor, Tensor]:
        """Linear RGB [M, 3] and the alpha that counts [M]."""
        material = self.mesh.material_index.index_select(0, surface.face)
        colour = self.factor.index_select(0, material)
        if self.vertex_colours is not None:
            colour = colour * _interpolate(self.vertex_colours, surface.face, surface.barycentric).clamp(0, 1)
        if self.textures is not None:
            texture = self.texture_of_material.index_select(0, material)
            textured = (texture >= 0).nonzero()[:, 0]
            part = _Surface(*(field.index_select(0, textured) for field in surface))
            texel = self._texture_colour(self.textures, texture.index_select(0, textured), part, pixel_axes)
            colour = colour.index_copy(0, textured, colour.index_select(0, textured) * texel)
        mode, alpha = self.alpha_mode.index_select(0, material), colour[:, 3]
        cut = (alpha >= self.cutoff.index_select(0, material)).to(alpha.dtype)
        return colour[:, :3], torch.where(mode == 0, 1.0, torch.where(mode == 1, cut, alpha))

    def _texture_colour(self, table: TextureTable, texture: Tensor, surface: _Surface, pixel_axes: Tensor) -> Tensor:
        """Linear RGB and alpha [M, 4]: bilinear where a texel covers the fragment, the fragment's mean elsewhere.

        The mean is taken inside the face and inside its texture island, so neighbours in the texture never bleed in.
        """
        normal, ray = surface.normal, surface.ray
        # A step of one pixel moves the point along its face by e - ray * (n . e) / (n . ray), with e = depth * axis.
        steps = surface.depth[..., None] * pixel_axes.index_select(0, surface.view)  # [M, 2, 3]
        grazing = (normal * ray).sum(dim=1).clamp(max=-1e-6)
        along = (steps @ normal[..., None]) / grazing[:, None, None]
        moved = (steps - ray[:, None] * along) @ self.barycentric_gradient.index_select(0, surface.face).transpose(1, 2)
        corners = self.uv.index_select(0, surface.face)  # [M, 3, 2]
        size = table.size.index_select(0, texture)
        texels = ((moved @ corners) * size[:, None]).norm(dim=-1).amax(dim=1)  # covered by a pixel, the longer way
        bounds = self.bounds.index_select(0, surface.face)
        result = torch.empty(len(texture), 4, device=texture.device)
        taps, fewer = 1, torch.zeros_like(texels, dtype=torch.bool)
        while taps <= _MAX_TAPS:
            group = texels <= taps if taps < _MAX_TAPS else torch.ones_like(fewer)
            rows = (group & ~fewer).nonzero()[:, 0]
            fewer = group
            here = surface.barycentric.index_select(0, rows)
            if taps == 1:
                uv = (here[:, None] @ corners.index_select(0, rows))[:, 0]
                colour = table.bilinear(texture.index_select(0, rows), uv, bounds.index_select(0, rows))
            else:
                offset = (torch.arange(taps, device=here.device) + 0.5) / taps - 0.5
                grid = torch.stack([offset.repeat(taps), offset.repeat_interleave(taps)], dim=1)
                inside = (here[:, None] + grid @ moved.index_select(0, rows)).clamp(min=0)
                inside = inside / inside.sum(dim=-1, keepdim=True)
                uv = inside @ corners.index_select(0, rows)
                level = (texels.index_select(0, rows) / taps).clamp(min=1, max=2**13).log2().ceil().long()
                colour = table.mean(texture.index_select(0, rows), uv, bounds.index_select(0, rows), level)
            result.index_copy_(0, rows, colour)
            taps *= 2
        return result


def _interpolate(of_corners: Tensor, face: Tensor, barycentric: Tensor) -> Tensor:
    """Values [M, C] at barycentric [M, 3] of faces [M], from of_corners [F, 3, C]."""
    return (barycentric[:, None, :] @ of_corners.index_select(0, face))[:, 0]


def _texture_table(mesh: TexturedMesh) -> tuple[TextureTable | None, Tensor]:
    """The mesh's textures, each once, and which one each material wears (-1 = none)."""
    images: list[Tensor] = []
    wraps: list[tuple[WrapMode, WrapMode]] = []
    known: dict[tuple[int, bool, tuple[WrapMode, WrapMode]], int] = {}
    places = []
    for material in mesh.materials:
        if material.texture is None:
            places.append(-1)
            continue
        opaque = material.alpha_mode == "OPAQUE"
        key = (id(material.texture), opaque, material.wrap)  # materials often share an image
        if key not in known:
            known[key] = len(images)
            solid = torch.full_like(material.texture[..., 3:], 255)  # ignored alpha must not weigh colours either
            images.append(torch.cat([material.texture[..., :3], solid], dim=-1) if opaque else material.texture)
            wraps.append(material.wrap)
        places.append(known[key])
    return TextureTable.build(images, wraps) if images else None, torch.tensor(places, device=mesh.vertices.device)
