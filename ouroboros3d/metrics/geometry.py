"""Distances between a predicted surface and the true one, and the alignment before (docs/metrics.md, section 4)."""

import math
from typing import Literal, NamedTuple

import torch
from pytorch3d.ops import iterative_closest_point, knn_points
from pytorch3d.ops.points_alignment import SimilarityTransform
from torch import Tensor

from ouroboros3d.metrics.per_object import PerObject
from ouroboros3d.surface import Surface

Alignment = Literal["none", "yaw", "icp"]

# Surface points are drawn at random, so the first of them are a fair sample; the search's best turn does not change
# with more of them, while its time grows with their square.
_SEARCH_POINTS = 2048
_MAX_RESIZING = 2.0  # a size further off is a collapse of the search, not an alignment


class SurfaceDistances(NamedTuple):
    """Nearest neighbours between P points of a prediction and Q of a target, for each of B objects.

    to_target: [B, P] from each predicted point to the target, scene units; NaN without a predicted surface.
    to_prediction: [B, Q] from each target point to the prediction, scene units; NaN without a predicted surface.
    agreement_with_target: [B, P] |cosine| between a predicted point's normal and that of its nearest target point.
    agreement_with_prediction: [B, Q] the same for each target point.
    """

    to_target: Tensor
    to_prediction: Tensor
    agreement_with_target: Tensor
    agreement_with_prediction: Tensor


def surface_distances(prediction: Surface, target: Surface) -> SurfaceDistances:
    """What Chamfer distance, F-score and normal consistency are made of.

    Args:
        prediction: [B, P]; an object may have no surface.
        target: [B, Q] in the same frame.

    Raises:
        ValueError: different numbers of objects, or a target without a surface.
    """
    _check(prediction, target)
    present = prediction.present[:, None]
    # Any finite points stand in for a missing surface: what they give is overwritten.
    stand_in = Surface(*(torch.where(present[..., None], t, 0.0) for t in (prediction.points, prediction.normals)))
    distances = (*_nearest(stand_in, target), *_nearest(target, stand_in))
    to_target, with_target, to_prediction, with_prediction = (torch.where(present, d, torch.nan) for d in distances)
    return SurfaceDistances(to_target, to_prediction, with_target, with_prediction)


def align(
    prediction: Surface,
    target: Surface,
    alignment: Alignment,
    yaw_step_deg: float = 15.0,
    align_scale: bool = False,
) -> tuple[Surface, Tensor]:
    """Move each prediction onto its target, for methods that leave the pose of an object open.

    Args:
        prediction: [B, P] in the object's own frame, +Y up; an object may have no surface and then stays as it is.
        target: [B, Q] in the same frame.
        alignment: `none`; `yaw`, the turn about +Y with the smallest Chamfer distance; `icp`, which goes on from there
            by iterative closest points, kept where that makes the Chamfer distance smaller.
        yaw_step_deg: turns 0, step, 2 step ... below 360 degrees are tried.
        align_scale: `icp` may also change the size, up to a factor of two.

    Returns:
        the moved surfaces and the matrix [B, 4, 4] that maps the prediction's points to them.

    Raises:
        ValueError: an unknown alignment, a step out of range, different numbers of objects, or a target without a
            surface.
    """
    if alignment not in ("none", "yaw", "icp"):
        raise ValueError(f"alignment: expected none, yaw or icp, got {alignment}.")
    if not 0 < yaw_step_deg <= 360:
        raise ValueError(f"yaw_step_deg: expected degrees in (0, 360], got {yaw_step_deg:g}.")
    _check(prediction, target)
    matrix = torch.eye(4, device=prediction.points.device, dtype=prediction.points.dtype)
    matrix = matrix.repeat(prediction.shape[0], 1, 1)
    if alignment == "none":
        return prediction, matrix
    # One by one: ICP iterates until all of a batch have converged, so an object would depend on its neighbours.
    for index in prediction.present.nonzero()[:, 0].tolist():
        one, other = (surface.points[index : index + 1, :_SEARCH_POINTS] for surface in (prediction, target))
        with torch.autocast(one.device.type, enabled=False):
            best = _best_yaw(one, other, yaw_step_deg)
            matrix[index] = _icp(one, other, best, align_scale) if alignment == "icp" else best
    return prediction.transform(matrix), matrix


class Chamfer(PerObject):
    """Half the sum of both mean distances to the nearest point, not squared (`unsquared_mean`), scene units."""

    compares = "surfaces"
    higher_is_better = False

    def values(self, distances: SurfaceDistances) -> Tensor:
        """[B]; NaN for an object without a predicted surface."""
        return (distances.to_target.mean(1) + distances.to_prediction.mean(1)) / 2


class FScore(PerObject):
    """Harmonic mean of the shares of predicted and of target points that lie within a threshold of the other surface.

    Args:
        threshold: scene units.

    Raises:
        ValueError: a threshold that is not positive.
    """

    compares = "surfaces"
    higher_is_better = True

    def __init__(self, threshold: float) -> None:
        super().__init__()
        if not threshold > 0:
            raise ValueError(f"threshold: expected positive scene units, got {threshold:g}.")
        self.threshold = threshold

    def values(self, distances: SurfaceDistances) -> Tensor:
        """[B] in [0, 1]; 0 for an object without a predicted surface."""
        precision = (distances.to_target <= self.threshold).float().mean(1)
        recall = (distances.to_prediction <= self.threshold).float().mean(1)
        both = precision + recall
        return torch.where(both > 0, 2 * precision * recall / both, 0.0)


class VolumeIoU(PerObject):
    """Intersection over union of solid cells; NaN where neither has any."""

    compares = "solids"
    higher_is_better = True

    def values(self, occupancy: Tensor, target_occupancy: Tensor) -> Tensor:
        """[B] of occupancy and target occupancy [B, R, R, R] bool, over the same cube."""
        both = (occupancy & target_occupancy).flatten(1).sum(1)
        either = (occupancy | target_occupancy).flatten(1).sum(1)
        return both / either


class NormalConsistency(PerObject):
    """|cosine| between the normals of nearest points, mean over the points of each surface, then over both."""

    compares = "surfaces"
    higher_is_better = True

    def values(self, distances: SurfaceDistances) -> Tensor:
        """[B] in [0, 1]; NaN for an object without a predicted surface."""
        return (distances.agreement_with_target.mean(1) + distances.agreement_with_prediction.mean(1)) / 2


def _check(prediction: Surface, target: Surface) -> None:
    if prediction.shape[0] != target.shape[0]:
        raise ValueError(f"target: expected B = {prediction.shape[0]} objects, got {target.shape[0]}.")
    if not bool(target.present.all()):
        missing = (~target.present).nonzero()[:, 0].tolist()
        raise ValueError(f"target: expected a surface of every object, got none at {missing}; leave those out.")


def _nearest(source: Surface, other: Surface) -> tuple[Tensor, Tensor]:
    """Distance [B, P] from each source point to the nearest other one, and the |cosine| [B, P] of their normals."""
    squares, index, _ = knn_points(source.points, other.points)
    normals = other.normals.gather(1, index.expand(-1, -1, 3))
    return squares[..., 0].sqrt(), (source.normals * normals).sum(-1).abs().clamp_max(1)


def _chamfer(points: Tensor, target: Tensor) -> Tensor:
    """Chamfer distance [M] of M clouds [M, P, 3] from one target [1, Q, 3]."""
    target = target.expand(len(points), -1, -1)
    there, back = knn_points(points, target).dists, knn_points(target, points).dists
    mean: Tensor = (there.sqrt().mean((1, 2)) + back.sqrt().mean((1, 2))) / 2
    return mean


def _best_yaw(points: Tensor, target: Tensor, step_deg: float) -> Tensor:
    """The turn [4, 4] about +Y on the grid of steps with the smallest Chamfer distance of [1, P, 3] from [1, Q, 3]."""
    angles = torch.arange(math.ceil(360 / step_deg), dtype=torch.float64) * math.radians(step_deg)
    cos, sin = angles.cos(), angles.sin()
    turns = torch.eye(4, dtype=torch.float64).repeat(len(angles), 1, 1)
    turns[:, 0, 0], turns[:, 0, 2], turns[:, 2, 0], turns[:, 2, 2] = cos, sin, -sin, cos
    turns = turns.to(points)
    return turns[_chamfer(points @ turns[:, :3, :3].transpose(-1, -2), target).argmin()]


def _icp(points: Tensor, target: Tensor, start: Tensor, align_scale: bool) -> Tensor:
    """The best of `start` [4, 4], its refinement by rigid ICP and, with `align_scale`, that one's with a free size.

    Best is the smallest Chamfer distance of [1, P, 3] from [1, Q, 3], which ICP does not look at: it only pulls points
    to their nearest target points, so with a free size it may shrink a cloud onto a patch of the target, or to nothing.
    """
    candidates = [start]
    for free_size in (False, True)[: 1 + align_scale]:
        last = candidates[-1]
        initial = SimilarityTransform(last[None, :3, :3].transpose(-1, -2), last[None, :3, 3], points.new_ones(1))
        found = iterative_closest_point(points, target, initial, estimate_scale=free_size).RTs
        refined = start.clone()
        # PyTorch3D's points are rows: s x R + T.
        refined[:3, :3], refined[:3, 3] = found.s[0] * found.R[0].T, found.T[0]
        candidates.append(refined)
    tried = torch.stack(candidates)
    chamfer = _chamfer(points @ tried[:, :3, :3].transpose(-1, -2) + tried[:, None, :3, 3], target)
    sizes = tried[:, :3, 0].norm(dim=1)
    sane = (sizes >= 1 / _MAX_RESIZING) & (sizes <= _MAX_RESIZING)
    return tried[torch.where(sane, chamfer, torch.inf).argmin()]
