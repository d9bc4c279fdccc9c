"""Surface points of meshes and of Gaussians, the two sides of a geometry metric."""

import torch
import torch.nn.functional as F
from pytorch3d.ops import sample_points_from_meshes
from pytorch3d.structures import Meshes
from torch import Tensor

from ouroboros3d.cameras import ORBIT_FOV_DEG, ORBIT_RADIUS, Cameras
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


def inspection_cameras(radius: float = ORBIT_RADIUS, fov_deg: float = ORBIT_FOV_DEG) -> Cameras:
    """Cameras [1, 26] that see an object from all sides: rings of eight at 0, 40 and -40 degrees, above and below.

    The defaults are those of the default rig, which holds every normalised object in any rotation.

    Args:
        radius: of the sphere around the origin on which they stand, scene units.
        fov_deg: the whole field of view in degrees.
    """
    ring = torch.arange(8) * 45.0
    azimuth_deg = torch.cat([ring, ring + 22.5, ring + 22.5, torch.zeros(2)])
    elevation_deg = torch.tensor([0.0] * 8 + [40.0] * 8 + [-40.0] * 8 + [90.0, -90.0])
    return Cameras.orbit(azimuth_deg, elevation_deg, radius, fov_deg).reshape(1, -1)


@torch.no_grad()
def depth_maps(gaussians: Gaussians, renderer: GaussianRenderer, cameras: Cameras, height: int, width: int) -> Tensor:
    """Depth of Gaussians seen by many cameras: [B, V, H, W], as `colour_and_depth`."""
    return colour_and_depth(gaussians, renderer, cameras, height, width)[1]


@torch.no_grad()
def colour_and_depth(
    gaussians: Gaussians, renderer: GaussianRenderer, cameras: Cameras, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Gaussians seen by many cameras, rendered in as many passes as memory wants.

    Args:
        gaussians: [B, N].
        renderer: renders the views.
        cameras: [B, V], or [1, V] for all objects.
        height: pixels.
        width: pixels.

    Returns:
        [B, V, 4, H, W] sRGB times alpha, and alpha, in [0, 1]; and [B, V, H, W] z along forward, scene units, 0 where
        there is nothing.

    Raises:
        ValueError: cameras of another number of objects.
    """
    objects, chunk = gaussians.shape[0], max(1, _MAX_PIXELS // (height * width))
    if cameras.shape[0] not in (1, objects):
        raise ValueError(f"cameras: expected B = 1 or {objects} as the Gaussians have, got {cameras.shape[0]}.")
    colours, depths = [], []
    for index in range(objects):
        seen_by = cameras[index % cameras.shape[0]].reshape(1, -1)
        one, black = gaussians[index : index + 1], gaussians.means.new_zeros(1, 3)
        parts = [
            renderer(one, seen_by[:, i : i + chunk], height, width, black) for i in range(0, seen_by.shape[1], chunk)
        ]
        colours.append(torch.cat([torch.cat([part.colour, part.alpha], dim=2)[0] for part in parts]))
        depths.append(torch.cat([part.depth[0, :, 0] for part in parts]))
    return torch.stack(colours), torch.stack(depths)


@torch.no_grad()
def fuse_depth(depth: Tensor, cameras: Cameras, count: int, seed: int, cell: float = 0.01) -> Surface:
    """Points on the surface that depth maps show from all sides.

    Every pixel of every depth map is lifted to a point, with the normal of the depth's own slope, facing the camera.
    Points where the depth jumps are dropped, one mean point is left in each occupied cell of a grid, and `count` of
    these are drawn (with replacement where there are fewer).

    Args:
        depth: [B, V, H, W] z along forward, scene units; 0 where there is nothing.
        cameras: [B, V], or [1, V] for all objects.
        count: points of each object.
        seed: of a stream of its own, the same for every object, whatever the batch it is in.
        cell: edge of a grid cell, scene units.

    Returns:
        [B, count] in the cameras' world; NaN for an object that shows no surface.

    Raises:
        ValueError: a count below 1, or a cell that is not positive.
    """
    if count < 1 or not cell > 0:
        raise ValueError(f"count, cell: expected at least 1 and more than 0, got {count} and {cell:g}.")
    surfaces = []
    for index, maps in enumerate(depth):
        points, normals = _lift(maps, cameras[index % cameras.shape[0]])
        surfaces.append(_draw(*_one_per_cell(points, normals, cell), count, seed))
    return Surface.cat(surfaces)


@torch.no_grad()
def carve(depth: Tensor, cameras: Cameras, resolution: int = 64, half_extent: float = 0.6) -> Tensor:
    """Which cells of a cube are solid: those whose centre no camera sees through, as in space carving.

    A camera sees through what lies before the depth of its pixel, or anywhere on a pixel without depth. The inside of a
    closed surface is solid, and so is a hollow that no camera looks into.

    Args:
        depth: [B, V, H, W] z along forward, scene units; 0 where there is nothing.
        cameras: [B, V], or [1, V] for all objects.
        resolution: R cells along an edge.
        half_extent: half the edge of the cube around the origin, scene units.

    Returns:
        [B, R, R, R] bool, indexed by x, y and z.
    """
    height, width = depth.shape[-2:]
    place = ((torch.arange(resolution, device=depth.device) + 0.5) / resolution * 2 - 1) * half_extent
    centres = torch.stack(torch.meshgrid(place, place, place, indexing="ij"), dim=-1).view(-1, 3)
    solid = torch.ones(len(depth), len(centres), dtype=torch.bool, device=depth.device)
    for index, maps in enumerate(depth):
        for number, view in enumerate(maps):
            uv, z = cameras[index % cameras.shape[0], number].project(centres)
            column, row = (uv[:, 0] * width).floor().long(), (uv[:, 1] * height).floor().long()
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (z > 0)
            seen = view[row.clamp(0, height - 1), column.clamp(0, width - 1)]
            solid[index] &= ~(inside & ((seen == 0) | (z < seen)))
    return solid.view(-1, resolution, resolution, resolution)


def trusted_pixels(depth: Tensor, cameras: Cameras) -> Tensor:
    """Where depth lies on a surface that is seen within 60 degrees of its normal.

    Args:
        depth: [V, H, W] z along forward, scene units; 0 where there is nothing.
        cameras: [V].

    Returns:
        [V, H, W] bool.
    """
    return F.pad(_slopes(depth, cameras)[2], (1, 1, 1, 1))


def _slopes(depth: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    """Points and normals [V, H - 2, W - 2, 3] of the inner pixels of depth maps [V, H, W], and which are trusted."""
    height, width = depth.shape[-2:]
    u = (torch.arange(width, device=depth.device, dtype=depth.dtype) + 0.5) / width
    v = (torch.arange(height, device=depth.device, dtype=depth.dtype) + 0.5) / height
    uv_norm = torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1).reshape(1, -1, 2)
    with torch.autocast(depth.device.type, enabled=False):
        points = cameras.to(dtype=depth.dtype).unproject(uv_norm, depth.flatten(1)).view(*depth.shape, 3)
    inner = points[:, 1:-1, 1:-1]
    along_u = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    along_v = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    normals = F.normalize(torch.linalg.cross(along_u, along_v), dim=-1)
    towards = F.normalize(cameras.centres[:, None, None] - inner, dim=-1)
    cosine = (normals * towards).sum(-1)
    solid = depth > 0
    solid = solid[:, 1:-1, 1:-1] & solid[:, 1:-1, 2:] & solid[:, 1:-1, :-2] & solid[:, 2:, 1:-1] & solid[:, :-2, 1:-1]
    # At the edge of a near surface in front of a far one a pixel's depth is a mean of both, on neither: a slope almost
    # along the view ray. A real surface at such an angle goes with these points; other cameras see it better.
    trusted = solid & (cosine.abs() >= _MIN_COSINE)
    return inner, normals * cosine.sign()[..., None], trusted


def _lift(depth: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Points and normals [M, 3] of the trusted pixels of depth maps [V, H, W] of cameras [V]."""
    points, normals, trusted = _slopes(depth, cameras)
    return points[trusted], normals[trusted]


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
