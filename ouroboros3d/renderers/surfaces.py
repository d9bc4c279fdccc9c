"""Surface points of meshes and of Gaussians, the two sides of a geometry metric."""

import torch
import torch.nn.functional as F
from pytorch3d.ops import sample_points_from_meshes
from pytorch3d.structures import Meshes
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.renderers.gaussians import GaussianRenderer
from ouroboros3d.renderers.textured_mesh import TexturedMesh
from ouroboros3d.surface import Surface

_MAX_PIXELS = 2**20  # of depth in one pass over views, a few hundred MB
# Of a surface's normal and the ray to the camera: 60 degrees. A splat's depth is that of its mean, and near splats are
# composited first, so a surface seen at an angle comes out too near by about a splat's size times the angle's tangent.
_MIN_COSINE = 0.5


def sample_surface(mesh: TexturedMesh, count: int, seed: int) -> Surface:
    """Points drawn uniformly by area, with the normals of their faces.

    Args:
        mesh: any triangles; those without an area are never drawn.
        count: points.
        seed: of a stream of its own; the same points on every device.

    Returns:
        [1, count] in the mesh's frame, on its device.

    Raises:
        ValueError: a mesh without any area, or a count below 1.
    """
    if count < 1:
        raise ValueError(f"count: expected at least 1 point, got {count}.")
    corners = mesh.corners.double()
    areas = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    if not bool(areas.sum() > 0):
        raise ValueError(f"mesh: expected triangles with an area, got {len(areas)} without; it has no surface.")
    # PyTorch3D draws from the global stream; on the CPU, since a GPU's stream gives other points.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs' streams too
        meshes = Meshes([mesh.vertices.cpu()], [mesh.faces.cpu()])
        points, normals = sample_points_from_meshes(meshes, count, return_normals=True)
    return Surface(points, F.normalize(normals, dim=-1)).to(mesh.vertices.device)


def inspection_cameras(radius: float, fov_deg: float) -> Cameras:
    """Cameras [1, 26] that see an object from all sides: rings of eight at 0, 40 and -40 degrees, above and below.

    Args:
        radius: of the sphere around the origin on which they stand, scene units.
        fov_deg: the whole field of view in degrees.
    """
    ring = torch.arange(8) * 45.0
    azimuth_deg = torch.cat([ring, ring + 22.5, ring + 22.5, torch.zeros(2)])
    elevation_deg = torch.tensor([0.0] * 8 + [40.0] * 8 + [-40.0] * 8 + [90.0, -90.0])
    return Cameras.orbit(azimuth_deg, elevation_deg, radius, fov_deg).reshape(1, -1)


@torch.no_grad()
def fuse_depth(
    gaussians: Gaussians,
    renderer: GaussianRenderer,
    cameras: Cameras,
    height: int,
    width: int,
    count: int,
    seed: int,
    cell: float = 0.01,
) -> Surface:
    """Points on the surface that the Gaussians show, from their depth seen by many cameras.

    Every pixel of every depth map is lifted to a point, with the normal of the depth's own slope, facing the camera.
    Points where the depth jumps are dropped, one mean point is left in each occupied cell of a grid, and `count` of
    these are drawn (with replacement where there are fewer).

    Args:
        gaussians: [B, N].
        renderer: renders the depth.
        cameras: [B, V], or [1, V] for all objects.
        height: pixels of a depth map.
        width: pixels of a depth map.
        count: points of each object.
        seed: of a stream of its own, the same for every object, whatever the batch it is in.
        cell: edge of a grid cell, scene units.

    Returns:
        [B, count] in the Gaussians' frame; NaN for an object that shows no surface.

    Raises:
        ValueError: a count below 1, a cell that is not positive, or cameras of another number of objects.
    """
    objects = gaussians.shape[0]
    if count < 1 or not cell > 0:
        raise ValueError(f"count, cell: expected at least 1 and more than 0, got {count} and {cell:g}.")
    if cameras.shape[0] not in (1, objects):
        raise ValueError(f"cameras: expected B = 1 or {objects} as the Gaussians have, got {cameras.shape[0]}.")
    surfaces = []
    for index in range(objects):
        row = index if cameras.shape[0] > 1 else 0
        points, normals = _lift_views(gaussians[index : index + 1], renderer, cameras[row : row + 1], height, width)
        surfaces.append(_draw(*_one_per_cell(points, normals, cell), count, seed))
    return Surface.cat(surfaces)


def _lift_views(
    gaussians: Gaussians, renderer: GaussianRenderer, cameras: Cameras, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Points and normals [M, 3] of all trusted pixels of one object's depth maps."""
    chunk = max(1, _MAX_PIXELS // (height * width))
    starts = range(0, cameras.shape[1], chunk)
    parts = [_lift(gaussians, renderer, cameras[:, i : i + chunk], height, width) for i in starts]
    return torch.cat([points for points, _ in parts]), torch.cat([normals for _, normals in parts])


def _lift(
    gaussians: Gaussians, renderer: GaussianRenderer, cameras: Cameras, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Points and normals [M, 3] of the trusted pixels of one object from cameras [1, V]."""
    depth = renderer(gaussians, cameras, height, width).depth[0, :, 0]
    u = (torch.arange(width, device=depth.device, dtype=depth.dtype) + 0.5) / width
    v = (torch.arange(height, device=depth.device, dtype=depth.dtype) + 0.5) / height
    uv_norm = torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1).reshape(1, -1, 2)
    with torch.autocast(depth.device.type, enabled=False):
        points = cameras[0].to(dtype=depth.dtype).unproject(uv_norm, depth.flatten(1)).view(*depth.shape, 3)
    inner = points[:, 1:-1, 1:-1]
    along_u = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    along_v = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    normals = F.normalize(torch.linalg.cross(along_u, along_v), dim=-1)
    towards = F.normalize(cameras[0].centres[:, None, None] - inner, dim=-1)
    cosine = (normals * towards).sum(-1)
    solid = depth > 0
    solid = solid[:, 1:-1, 1:-1] & solid[:, 1:-1, 2:] & solid[:, 1:-1, :-2] & solid[:, 2:, 1:-1] & solid[:, :-2, 1:-1]
    # At the edge of a near surface in front of a far one a pixel's depth is a mean of both, on neither: a slope almost
    # along the view ray. A real surface at such an angle goes with these points; other cameras see it better.
    trusted = solid & (cosine.abs() >= _MIN_COSINE)
    return inner[trusted], (normals * cosine.sign()[..., None])[trusted]


def _one_per_cell(points: Tensor, normals: Tensor, cell: float) -> tuple[Tensor, Tensor]:
    """The mean point and normal [M', 3] of each grid cell that holds any of the points [M, 3]."""
    cells, index = (points / cell).floor().long().unique(dim=0, return_inverse=True)
    order = torch.arange(len(points), device=points.device)
    first = torch.full((len(cells),), len(points), device=points.device).scatter_reduce(0, index, order, "amin")
    # A cell may hold both sides of a thin sheet, whose normals must not cancel: all are turned to the first one's side.
    same_side = (normals * normals[first][index]).sum(-1, keepdim=True) >= 0
    sums = torch.zeros(len(cells), 7, device=points.device, dtype=points.dtype).index_add(
        0, index, torch.cat([points, torch.where(same_side, normals, -normals), torch.ones_like(points[:, :1])], dim=1)
    )
    return sums[:, :3] / sums[:, 6:], F.normalize(sums[:, 3:6], dim=-1)


def _draw(points: Tensor, normals: Tensor, count: int, seed: int) -> Surface:
    """Surface [1, count] of some of the points [M, 3]; NaN for M = 0."""
    if len(points) == 0:
        missing = points.new_full((1, count, 3), torch.nan)
        return Surface(missing, missing)
    generator = torch.Generator().manual_seed(seed)  # on the CPU, since a GPU's stream gives other numbers
    if len(points) >= count:
        chosen = torch.randperm(len(points), generator=generator)[:count]
    else:
        chosen = torch.randint(len(points), (count,), generator=generator)
    chosen = chosen.to(points.device)
    return Surface(points[chosen][None], normals[chosen][None])
