"""A textured mesh of Gaussians: the surface that their depth shows from all sides, and the colours it has there."""

from dataclasses import dataclass

import fast_simplification
import numpy as np
import torch
import torch.nn.functional as F
import xatlas
from numpy.typing import NDArray
from scipy import ndimage, sparse  # type: ignore[import-untyped]
from scipy.sparse import csgraph  # type: ignore[import-untyped]
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.renderers.gaussian_tiles import ranges
from ouroboros3d.renderers.gaussians import GaussianRenderer
from ouroboros3d.renderers.glb_writer import vertex_normals
from ouroboros3d.renderers.signed_distance import fuse_distance, zero_surface
from ouroboros3d.renderers.surface_fusion import colour_and_depth, inspection_cameras
from ouroboros3d.renderers.textured_mesh import Material, TexturedMesh

_GUTTER = 2  # texels around each chart, which bilinear filtering and the first mip levels reach into
_SEEN = 0.03  # scene units behind a camera's depth up to which it sees a point: some splats' size
_CARE = 4  # of 0 to 10; the package's own 7 pinches four times as many edges
_SPECK = 0.01  # of all faces: what disagreeing depth leaves in the air beside a surface
_UNSEEN = 1e-3  # weight of a camera that a point faces behind something else; it counts where no other one does


@dataclass(frozen=True)
class MeshSettings:
    """How fine a mesh of Gaussians is.

    Args:
        resolution: grid points along an edge of the cube, 1.2 scene units, on which depth is fused.
        faces: at most, after simplification.
        texture_size: height and width of the texture in texels.
        view_size: height and width in pixels of the 26 pictures that geometry and colours are taken from.
    """

    resolution: int = 128
    faces: int = 10_000
    texture_size: int = 1024
    view_size: int = 256

    def __post_init__(self) -> None:
        """Check the ranges once.

        Raises:
            ValueError: a value out of range.
        """
        for name, least, most in (
            ("resolution", 8, 512),
            ("faces", 100, 10**6),
            ("texture_size", 64, 8192),
            ("view_size", 32, 2048),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name}: expected {least} to {most}, got {getattr(self, name)}.")


@torch.no_grad()
def mesh_of_gaussians(
    gaussians: Gaussians, renderer: GaussianRenderer, settings: MeshSettings | None = None
) -> TexturedMesh:
    """The surface that Gaussians show, with a texture of the colours that they are seen in.

    Depth from 26 cameras all around is fused to a signed distance, whose zero level is meshed, simplified by quadric
    errors (Garland and Heckbert 1997) and cut into charts; each texel takes the mean colour of the cameras that see it,
    by the fourth power of the cosine at which they do.

    Args:
        gaussians: [1, N] in the object's frame.
        renderer: of depth and colours.
        settings: how fine.

    Returns:
        the mesh on the CPU, in the Gaussians' frame, its vertices shared by their faces: see `watertightness`.

    Raises:
        ValueError: more than one object, or Gaussians that nothing is seen of.
    """
    if gaussians.shape[0] != 1:
        raise ValueError(
            f"gaussians: expected one object, got {gaussians.shape[0]}; index one as gaussians[i : i + 1]."
        )
    settings = settings or MeshSettings()
    cameras = inspection_cameras().to(gaussians.means.device)
    colours, depth = (maps[0] for maps in colour_and_depth(gaussians, renderer, cameras, *[settings.view_size] * 2))
    distance = fuse_distance(depth, cameras[0], settings.resolution)
    if not bool((distance < 0).any()):
        raise ValueError("gaussians: expected a surface, got none that 26 cameras around see; is the object empty?")
    vertices, faces = (part.cpu() for part in zero_surface(distance))
    vertices, faces = _simplified(*_without_specks(vertices, faces), settings.faces)
    uv = _charts(vertices, faces, settings.texture_size)
    texel, owner, weights = _texels(uv, settings.texture_size)
    points = (vertices[faces][owner] * weights[..., None]).sum(dim=1)
    normals = (vertex_normals(vertices, faces)[faces][owner] * weights[..., None]).sum(dim=1)
    seen = _colours(points.to(depth), F.normalize(normals, dim=-1).to(depth), colours, depth, cameras[0]).cpu()
    texture = _filled(texel, seen, settings.texture_size)
    material = Material(texture=texture, wrap=("clamp", "clamp"))
    return TexturedMesh(vertices, faces, uv, torch.zeros(len(faces), dtype=torch.int64), (material,))


def watertightness(mesh: TexturedMesh) -> str:
    """Whether a mesh is `watertight`, every edge joining two faces; what it is instead, and at how many edges.

    Simplification may pinch thin parts: an edge then joins four faces, and the surface is closed all the same.
    """
    ends = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).sort(dim=1)[0]
    faces_of_edge = ends.unique(dim=0, return_counts=True)[1]
    if is_open := int((faces_of_edge % 2).sum()):
        return f"open at {is_open} edges"
    pinched = int((faces_of_edge > 2).sum())
    return f"closed, with {pinched} edges of more than two faces" if pinched else "watertight"


def _without_specks(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Without connected parts of fewer than `_SPECK` of the faces, and without their vertices."""
    ends = faces[:, [0, 1, 1, 2]].reshape(-1, 2).numpy()
    graph = sparse.coo_array((np.ones(len(ends), dtype=np.int8), ends.T), shape=(len(vertices),) * 2)
    part = torch.from_numpy(csgraph.connected_components(graph, directed=False)[1]).long()[faces[:, 0]]
    kept = faces[part.bincount()[part] >= _SPECK * len(faces)]
    used, index = kept.unique(return_inverse=True)
    return vertices[used], index


def _simplified(vertices: Tensor, faces: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """At most so many faces of about the same shape."""
    if len(faces) <= most:
        return vertices, faces
    points, triangles = fast_simplification.simplify(
        vertices.numpy(), faces.int().numpy(), target_count=most, agg=_CARE
    )
    return torch.from_numpy(points).float(), torch.from_numpy(triangles).long()


def _charts(vertices: Tensor, faces: Tensor, size: int) -> Tensor:
    """[F, 3, 2] places of the faces' corners in one texture, in glTF's coordinates."""
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices.numpy(), faces.int().numpy())
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding = size, 2 * _GUTTER
    atlas.generate(pack_options=packing)
    _, corners, uv = atlas[0]
    return torch.from_numpy(uv[corners])


def _texels(uv: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Texels [M] whose centres lie in a face, the face [M], and the weights [M, 3] of its corners."""
    corners = uv.double() * size - 0.5  # a texel's centre is a whole number
    low = corners.amin(dim=1).ceil().clamp_min(0).long()
    high = corners.amax(dim=1).floor().clamp_max(size - 1).long()
    across, down = (high - low + 1).clamp_min(0).unbind(dim=1)
    owner, place = ranges(across * down)
    column, row = low[owner, 0] + place % across[owner], low[owner, 1] + place // across[owner]
    first, second, third = corners[owner].unbind(dim=1)
    texel = torch.stack([column, row], dim=-1).double()
    areas = torch.stack([_area(second, third, texel), _area(third, first, texel), _area(first, second, texel)], dim=-1)
    whole = areas.sum(dim=-1, keepdim=True)
    weights = areas / whole
    inside = (whole[:, 0] != 0) & (weights >= -1e-9).all(dim=-1)
    return (row * size + column)[inside], owner[inside], weights[inside].float()


def _area(first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """[M] twice the signed areas of triangles in the plane."""
    one, other = second - first, third - first
    return one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]


def _colours(points: Tensor, normals: Tensor, colours: Tensor, depth: Tensor, cameras: Cameras) -> Tensor:
    """[M, 3] sRGB of points [M, 3], from pictures [V, 4, H, W] premultiplied with alpha and depth [V, 1, H, W]."""
    total = torch.zeros_like(points[:, :1].expand(-1, 4)).contiguous()
    for number, (picture, near) in enumerate(zip(colours, depth, strict=True)):
        camera = cameras[number]
        uv, z = camera.project(points)
        grid = (2 * uv - 1).view(1, 1, -1, 2)
        seen = F.grid_sample(picture[None], grid, align_corners=False)[0, :, 0].T
        surface = F.grid_sample(near[None, None], grid, mode="nearest", align_corners=False)[0, 0, 0]
        cosine = (normals * F.normalize(camera.centres - points, dim=-1)).sum(-1).clamp_min(0)
        weight = cosine**4 * torch.where(z < surface + _SEEN, 1.0, _UNSEEN)
        total += weight[:, None] * seen
    return total[:, :3] / total[:, 3:].clamp_min(1e-6)


def _filled(texel: Tensor, colours: Tensor, size: int) -> Tensor:
    """A texture [size, size, 4] uint8 with the colours [M, 3] of texels [M], and the nearest one's elsewhere."""
    image: NDArray[np.uint8] = np.full((size * size, 4), 255, dtype=np.uint8)
    image[texel.numpy(), :3] = (colours.clamp(0, 1) * 255).round().byte().numpy()
    empty = np.ones(size * size, dtype=bool)
    empty[texel.numpy()] = False
    rows, columns = ndimage.distance_transform_edt(
        empty.reshape(size, size), return_distances=False, return_indices=True
    )
    return torch.from_numpy(image.reshape(size, size, 4)[rows, columns])
