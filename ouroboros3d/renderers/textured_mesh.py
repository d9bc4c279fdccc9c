"""A textured triangle mesh in memory, in the terms of glTF."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ouroboros3d.renderers.textures import WrapMode

AlphaMode = Literal["OPAQUE", "MASK", "BLEND"]
_BOUNDING_RADIUS = 0.58  # what the default rig never crops, in any rotation
# Below these nothing of a face is seen: its height as a share of its longest edge, and that edge as a share of the side
# of a square as large as the whole surface. Five million such faces cover less than a thousandth of it.
_THIN, _TINY = 1e-6, 1e-5
_CHUNK = 2**18  # faces whose corners are looked at together, for little memory


@dataclass(frozen=True)
class Material:
    """What a face looks like, in glTF's terms; both of its sides are shown, whatever `doubleSided` says.

    Args:
        base_colour_linear: factor of the texture, linear RGB and alpha, in [0, 1].
        texture: [H, W, 4] uint8 sRGB and straight alpha, or None for white.
        wrap: horizontal and vertical wrap mode of the texture.
        alpha_mode: OPAQUE ignores every alpha, MASK cuts it at `alpha_cutoff`, BLEND composites.
        alpha_cutoff: MASK draws where alpha is at least this.
    """

    base_colour_linear: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    texture: Tensor | None = None
    wrap: tuple[WrapMode, WrapMode] = ("repeat", "repeat")
    alpha_mode: AlphaMode = "OPAQUE"
    alpha_cutoff: float = 0.5


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
        origin: of the vertices, in its file's world: that of an object far from its own, which float32 would dent.
        notes: what its file says beside what is shown, or says in another way; one line each.
    """

    vertices: Tensor
    faces: Tensor
    uv: Tensor
    material_index: Tensor
    materials: tuple[Material, ...]
    vertex_colours_linear: Tensor | None = None
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    notes: tuple[str, ...] = ()

    @property
    def corners(self) -> Tensor:
        """[F, 3, 3] corners of each face."""
        return self.vertices[self.faces]

    def normalised(self) -> tuple["TexturedMesh", float, Tensor]:
        """The mesh with its box centred at the origin, in the cube [-0.5, 0.5]^3 and in the sphere of radius 0.58.

        Faces without an area, which nothing is seen of, do not count.

        Returns:
            the mesh, `scale` and `offset` [3] (float64), with x_normalised = scale * x + offset for x in the file's
            world.
        """
        seen = faces_with_area(self.vertices, self.faces)
        used = self.vertices[(self.faces[seen] if bool(seen.any()) else self.faces).unique()].double()
        low, high = used.amin(dim=0), used.amax(dim=0)
        centre = (low + high) / 2
        radius = (used - centre).norm(dim=1).max()
        scale = torch.minimum(1 / (high - low).max(), _BOUNDING_RADIUS / radius).item()
        vertices = ((self.vertices.double() - centre) * scale).float()
        offset = -scale * (centre + torch.tensor(self.origin, dtype=centre.dtype, device=centre.device))
        return replace(self, vertices=vertices, origin=(0.0, 0.0, 0.0)), scale, offset

    def to(self, device: torch.device | str) -> "TexturedMesh":
        """The mesh on another device."""
        colours = self.vertex_colours_linear
        return replace(
            self,
            vertices=self.vertices.to(device),
            faces=self.faces.to(device),
            uv=self.uv.to(device),
            material_index=self.material_index.to(device),
            materials=tuple(
                replace(m, texture=None if m.texture is None else m.texture.to(device)) for m in self.materials
            ),
            vertex_colours_linear=None if colours is None else colours.to(device),
        )


def faces_with_area(vertices: Tensor, faces: Tensor) -> Tensor:
    """Which faces something can be seen of.

    Args:
        vertices: [P, 3].
        faces: [F, 3].

    Returns:
        [F] whether it is more than a line or a point, at its own size and beside the whole surface.
    """
    longest, areas = [], []
    for some in faces.split(_CHUNK):
        first, second, third = vertices[some].double().unbind(dim=1)
        edges = torch.stack([second - first, third - second, first - third])
        longest.append(edges.norm(dim=2).amax(dim=0))
        areas.append(torch.linalg.cross(edges[0], -edges[2]).norm(dim=1) / 2)
    edge, area = torch.cat(longest), torch.cat(areas)
    return (2 * area > _THIN * edge**2) & (edge > _TINY * area.sum().sqrt())
