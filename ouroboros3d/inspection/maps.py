"""Depth and normal maps beside the views: how far they reach, and whether they belong to the cameras.

A view shows the nearest surface, so nothing lies before it. Points lifted from the depth of one view may be hidden from
another, but not lie before what that one sees, nor where it sees nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped] # it ships no types
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.posed import PosedObject
from ouroboros3d.datamodules.untrusted import MissingPackage

# Of 256 objects of furniture with right depth at 64 pixels, half have a conflict below 0.0001, 1 % above 0.005, one, a
# net, 0.015. Steps of 0.012 change little. Of a scale that is 10 % off half have more than 0.026, of rays 0.0014.
FITS = 0.0005
WRONG = 0.015
_CAP = 0.1  # scene units; beyond, few points would outvote the others
_VIEWS, _SIZE = 8, 64  # of an object that are looked at, and pixels of their longer side
_AWAY = 0.1  # cosine; smooth normals of a rim face away by less


@dataclass(frozen=True)
class Maps:
    """What the maps of one object say.

    Args:
        unreadable: the first map that cannot be read, and why; empty where all can.
        not_read: which package reading them takes that is not installed; empty where none is missing.
        depth: nearest and farthest value, scene units; None without depth.
        conflict: how far points of one view lie before what the others see, mean in scene units up to 0.1.
        conflict_of_rays: the same were the values distances from the camera's centre.
        scale: the factor under which the values conflict least; 1 where they fit as they are.
        conflict_scaled: the conflict under that factor.
        facing_away: share of the normals that point away from the camera that sees them; None without normals.
    """

    unreadable: str = ""
    not_read: str = ""
    depth: tuple[float, float] | None = None
    conflict: float = 0.0
    conflict_of_rays: float = 0.0
    scale: float = 1.0
    conflict_scaled: float = 0.0
    facing_away: float | None = None


def look_at_maps(found: PosedObject) -> Maps | None:
    """Read the maps of some views; None where the object has none.

    Args:
        found: the object, with cameras that fit its images.
    """
    if found.depth is None and found.normals is None:
        return None
    views = sorted({int(view) for view in np.linspace(0, len(found) - 1, min(len(found), _VIEWS)).round()})
    cameras, pixels = found.cameras[views], Pixels(found.size, math.ceil(max(found.size) / _SIZE))
    try:
        depth = None if found.depth is None else pixels.of_views(found.depth, views)
        normals = None if found.normals is None else pixels.of_views(found.normals, views)
    except (SampleError, OSError) as error:
        return Maps(unreadable=str(error))
    except MissingPackage as error:
        return Maps(not_read=str(error))
    away = None if normals is None else _facing_away(cameras, pixels, normals)
    if depth is None or len(views) < 2 or not bool((depth > 0).any()):
        return Maps(facing_away=away)
    reach = (depth[depth > 0].min().item(), depth.max().item())
    stored = conflict(cameras, pixels, depth)
    along = pixels.rays(cameras).norm(dim=-1)
    scale, scaled = (1.0, stored) if stored <= FITS else _best_scale(cameras, pixels, depth)
    of_rays = conflict(cameras, pixels, depth / along)
    return Maps("", "", reach, stored, of_rays, scale, scaled, away)


@dataclass(frozen=True)
class Pixels:
    """Evenly chosen pixels of an image.

    Args:
        size: height and width of the image.
        step: every so many are chosen along each axis, the middle one of them.
    """

    size: tuple[int, int]
    step: int

    @property
    def places(self) -> tuple[Tensor, Tensor]:
        """Rows [h] and columns [w] of the chosen pixels."""
        rows, columns = (torch.arange(self.step // 2, side, self.step) for side in self.size)
        return rows, columns

    @property
    def uv_norm(self) -> Tensor:
        """[h, w, 2] their centres in image widths and heights."""
        rows, columns = ((place + 0.5) / side for place, side in zip(self.places, self.size, strict=True))
        return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)

    def nearest(self, uv_norm: Tensor) -> tuple[Tensor, Tensor]:
        """Which row and which column of the chosen ones is nearest to points [P, 2], as numbers [P] from 0."""
        height, width = self.size
        place = (uv_norm * torch.tensor([width, height]) - 0.5 - self.step // 2) / self.step
        column, row = place.round().long().unbind(dim=-1)
        return row, column

    def of_views(self, read: Callable[[int], Tensor], views: list[int]) -> Tensor:
        """[V, h, w, ...] of maps [H, W, ...]."""
        rows, columns = self.places
        return torch.stack([read(view)[rows][:, columns] for view in views])

    def rays(self, cameras: Cameras) -> Tensor:
        """[V, h, w, 3] from the centres of cameras [V] to depth 1, in the world."""
        uv = self.uv_norm
        ends = [cameras[view].unproject(uv, torch.ones(uv.shape[:2])) for view in range(len(cameras.centres))]
        return torch.stack(ends) - cameras.centres[:, None, None]


def conflict(cameras: Cameras, pixels: Pixels, depth: Tensor) -> float:
    """How far points of each view lie before what the others see: the mean in scene units, each 0.1 at most.

    Points are lifted where the neighbouring pixels have depth too, and a neighbour of where they fall may see them, so
    that edges and thin parts do not count; depth may lack a rim of a pixel. A point where a view sees nothing, or
    behind its camera, counts in full; one beside the image does not.

    Args:
        cameras: [V].
        pixels: h x w of them.
        depth: [V, h, w] scene units along the camera's axis, 0 = empty.
    """
    views, height, width = depth.shape
    nearest = -F.max_pool2d(-torch.where(depth > 0, depth, torch.inf)[:, None], 3, stride=1, padding=1)[:, 0]
    beside = F.max_pool2d(depth[:, None], 5, stride=1, padding=2)[:, 0] > 0
    inner = -F.max_pool2d(-depth[:, None], 3, stride=1, padding=1)[:, 0] > 0
    gaps = []
    for one in range(views):
        points = cameras[one].unproject(pixels.uv_norm, depth[one])[inner[one]]
        for other in range(views):
            if other == one:
                continue
            uv, z = cameras[other].project(points)
            row, column = pixels.nearest(uv)
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (z > 0)
            place = other, row.clamp(0, height - 1), column.clamp(0, width - 1)
            nothing = torch.where(beside[place], 0.0, _CAP)
            gap = torch.where(nearest[place].isinf(), nothing, (nearest[place] - z).clamp(0, _CAP))
            gaps.append(torch.where(inside, gap, _CAP)[inside | (z <= 0)])
    everything = torch.cat(gaps)
    if len(everything):
        return everything.mean().item()
    return _CAP if inner.any() else 0.0


def _best_scale(cameras: Cameras, pixels: Pixels, depth: Tensor) -> tuple[float, float]:
    """The factor of depth [V, h, w] that leaves the least conflict, and that conflict."""
    # Objects lie around the origin.
    near = math.log((cameras.centres.norm(dim=-1).median() / depth[depth > 0].median()).item())

    def scaled(logarithm: float) -> float:
        return conflict(cameras, pixels, depth * math.exp(logarithm))

    start = min(np.linspace(near - 0.3, near + 0.3, 13), key=scaled)
    solved = minimize_scalar(scaled, bounds=(start - 0.05, start + 0.05), method="bounded", options={"xatol": 0.005})
    return math.exp(solved.x), float(solved.fun)


def _facing_away(cameras: Cameras, pixels: Pixels, normals: Tensor) -> float | None:
    """Share of normals [V, h, w, 3] that no camera could see; None where all are empty."""
    solid = normals.norm(dim=-1) > 0.5
    cosine = (normals * F.normalize(pixels.rays(cameras), dim=-1)).sum(dim=-1)[solid]
    return (cosine > _AWAY).float().mean().item() if len(cosine) else None
