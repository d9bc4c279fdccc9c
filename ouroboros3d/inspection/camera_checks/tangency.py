"""How well silhouettes agree on the planes that touch the object: the sharpest test of cameras that needs no matching.

All planes through two camera centres form a pencil. Of those that touch the object, both cameras see the same one as a
line that touches their silhouette, so the outermost planes of both silhouettes must be equal (Hernández, Schmitt and
Cipolla, Silhouette coherence for camera calibration under circular motion, 2007). Only the convex hull of a silhouette
counts. What the hull cannot see within its pixels shows here: a focal length that is wrong by 5 %, a radius by 3 %.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError  # type: ignore[import-untyped] # it ships no types
from torch import Tensor

from ouroboros3d.cameras import Cameras

SIZE = 128  # pixels of the image's longer side, the unit of the errors
# A pair counts if its baseline passes the origin at this share of the radius at least: nearer, it runs through the
# object, and no plane of the pencil touches it. Normalised objects reach 0.58 of the default rig's 1.74.
_CLEARANCE = 0.35


@dataclass(frozen=True)
class Outlines:
    """Convex outlines of the views that show the whole object.

    Args:
        views: their numbers.
        uv_norm: [V, K, 2] corners, 0 to 1 inside the image; the last one repeated where there are fewer.
        width: pixels of the image they were taken from.
    """

    views: tuple[int, ...]
    uv_norm: NDArray[np.float64]
    width: int

    @classmethod
    def of(cls, alpha: Tensor, usable: Tensor) -> "Outlines":
        """Outlines of views, to a fraction of a pixel.

        Args:
            alpha: [F, H, W] in [0, 1].
            usable: [F] bool, the object is in view and not cut off.
        """
        height, width = alpha.shape[-2:]
        shrink = max(1.0, max(height, width) / SIZE)
        size = (max(1, round(height / shrink)), max(1, round(width / shrink)))
        small = F.adaptive_avg_pool2d(alpha, size).double().numpy()
        found = {view: outline(small[view]) for view in torch.nonzero(usable).flatten().tolist()}
        views = tuple(view for view, corners in found.items() if len(corners) >= 3)
        most = max((len(found[view]) for view in views), default=0)
        padded = [np.pad(found[view], ((0, most - len(found[view])), (0, 0)), mode="edge") for view in views]
        return cls(views, np.array(padded).reshape(len(views), most, 2), size[1])


def outline(alpha: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners [K, 2] of the convex outline of a view [h, w], where alpha is a half between two pixels' centres."""
    points = []
    for lines, transposed in ((alpha, False), (alpha.T, True)):
        padded = np.pad(lines, 1)
        for number in np.nonzero((lines >= 0.5).any(axis=1))[0]:
            line = padded[number + 1]
            places = np.nonzero(line >= 0.5)[0]
            for place, step in ((places[0], -1), (places[-1], 1)):
                # Outward from the last covered pixel alpha falls linearly, to a half `(alpha - 0.5) / drop` pixels on.
                # The padding moved pixels by one: the centre of pixel i of the image is at i + 0.5.
                drop = line[place] - line[place + step]
                edge = place - 0.5 + step * (line[place] - 0.5) / drop
                points.append((number + 0.5, edge) if transposed else (edge, number + 0.5))
    if not points:
        return np.zeros((0, 2))
    corners = np.array(points)
    try:
        corners = corners[ConvexHull(corners).vertices]
    except QhullError:  # less than a triangle
        return np.zeros((0, 2))
    return np.asarray(corners / [alpha.shape[1], alpha.shape[0]])


def tangency_errors(outlines: Outlines, cameras: Cameras) -> NDArray[np.float64]:
    """Disagreement of every two views about the planes that touch the object.

    Args:
        outlines: of V of the F views.
        cameras: [F].

    Returns:
        [V, V, 2] pixels at the object, absolute, of the planes on its two sides; NaN on the diagonal and where a
        baseline runs through the object.
    """
    chosen = list(outlines.views)
    c2w = cameras.c2w_opencv[chosen].double().numpy()
    matrix = cameras.intrinsics_norm[chosen].double().numpy()
    # [V, K, 3] world directions of the outlines' corners; of any length, since only their angles count.
    rays = np.concatenate([outlines.uv_norm, np.ones((*outlines.uv_norm.shape[:2], 1))], axis=-1)
    rays = rays @ np.linalg.inv(matrix).transpose(0, 2, 1) @ c2w[:, :3, :3].transpose(0, 2, 1)
    centres = c2w[:, :3, 3]
    radius = np.linalg.norm(centres, axis=1)
    errors = np.full((len(chosen), len(chosen), 2), np.nan)
    first, second = np.triu_indices(len(chosen), 1)
    baseline = centres[second] - centres[first]
    length = np.linalg.norm(baseline, axis=1, keepdims=True)
    baseline = baseline / np.maximum(length, 1e-12)
    # [pairs, 3] from the baseline straight to the origin, where the object is: the plane of the pencil with angle 0.
    inward = -centres[first] + (centres[first] * baseline).sum(axis=1, keepdims=True) * baseline
    distance = np.linalg.norm(inward, axis=1)
    valid = (length[:, 0] > 0.01 * radius[first]) & (distance > _CLEARANCE * np.minimum(radius[first], radius[second]))
    first, second, baseline, inward, distance = (x[valid] for x in (first, second, baseline, inward, distance))
    inward = inward / distance[:, None]
    aside = np.cross(baseline, inward)
    # A ray and the baseline span a plane, which seen along the baseline is a line: its angle is that of the ray in
    # (inward, aside). The smallest and the largest angle [pairs] over a silhouette are its two tangent planes.
    low, high = [], []
    for views in (first, second):
        angle = np.arctan2((rays[views] @ aside[:, :, None])[..., 0], (rays[views] @ inward[:, :, None])[..., 0])
        low.append(angle.min(axis=1, initial=np.pi))
        high.append(angle.max(axis=1, initial=-np.pi))
    # Radians about the baseline, to scene units at the origin, to pixels of the first view.
    pixels = distance * matrix[first, 0, 0] * outlines.width / radius[first]
    error = np.abs(np.stack([low[0] - low[1], high[0] - high[1]], axis=-1)) * pixels[:, None]
    errors[first, second] = errors[second, first] = error
    return errors
