"""How well the silhouettes of one object fit its cameras, as one number, and which of its views do not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares  # type: ignore[import-untyped] # it ships no types
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.inspection.camera_checks.conventions import at_radii
from ouroboros3d.inspection.camera_checks.tangency import Outlines, tangency_errors
from ouroboros3d.inspection.camera_checks.visual_hull import Hull, Masks, carve_silhouettes, on_border

# Misfit is in pixels of the image, which is taken at 128 at most: the mean disagreement about tangent planes, and this
# much for a hull that covers nothing.
_UNCOVERED = 128.0
_NO_PAIRS = 128.0  # no two cameras see the object from different sides, as where all stand in one place
# Thin parts vanish between the pixels of small images: there a pixel of disagreement says less.
_SMALL = 64
# Of 1,020 sets of 8 and of 16 views of 511 objects of furniture, lamps and wires with right cameras at 64 pixels, half
# have less than 0.13 pixels, 99 % less than 0.6, and one, a net, 1.02. A wrong convention makes it 5 to 100 unless the
# object is symmetric, one view that is turned by 40 degrees 1 to 10.
FITS = 1.0
MIN_VIEWS = 3
# What a test needs grows with the square of the views, and the agreement of this many says all there is to say.
_MAX_VIEWS = 200


def views_to_test(count: int) -> tuple[int, ...]:
    """Which of the views of an object its cameras are tested with: all, or of very many evenly chosen ones."""
    return tuple(int(view) for view in np.linspace(0, count - 1, min(count, _MAX_VIEWS)).round())


@dataclass(frozen=True)
class ViewSet:
    """Silhouettes of one object with their cameras.

    Args:
        uid: the object.
        cameras: [F].
        masks: of the F views.
        outlines: of those that show the whole object.
        numbers: F, of the views among all views of the object.
    """

    uid: str
    cameras: Cameras
    masks: Masks
    outlines: Outlines
    numbers: tuple[int, ...]

    @classmethod
    def of(cls, uid: str, cameras: Cameras, alpha: Tensor, numbers: Sequence[int] | None = None) -> "ViewSet":
        """Take masks and outlines from views at their full size.

        Args:
            uid: the object.
            cameras: [F].
            alpha: [F, H, W] in [0, 1].
            numbers: F, of the views among all views of the object; None where these are all.
        """
        whole = (alpha > 0.5).flatten(1).any(dim=1) & ~on_border(alpha)
        numbers = range(len(alpha)) if numbers is None else numbers
        return cls(uid, cameras, Masks.of(alpha), Outlines.of(alpha, whole), tuple(numbers))

    def seen_by(self, cameras: Cameras) -> "ViewSet":
        """The same images with other cameras [F]."""
        return replace(self, cameras=cameras)

    @property
    def testable(self) -> bool:
        """Whether there are views enough to disagree."""
        return len(self.outlines.views) >= MIN_VIEWS

    @cached_property
    def hull(self) -> Hull:
        """The visual hull."""
        return carve_silhouettes(self.masks, self.cameras)

    @cached_property
    def tangency(self) -> float:
        """Mean disagreement about tangent planes, part of the misfit."""
        errors = tangency_errors(self.outlines, self.cameras)
        weight = min(1.0, max(self.masks.solid.shape[-2:]) / _SMALL)
        return _NO_PAIRS if np.isnan(errors).all() else weight * float(np.nanmean(errors))

    @cached_property
    def misfit(self) -> float:
        """How badly images and cameras fit together, in pixels; 0 for a perfect fit."""
        return self.tangency + _UNCOVERED * (1 - self.hull.coverage.mean().item())

    @property
    def fits(self) -> bool:
        """Whether this is as good as right cameras are."""
        return self.misfit <= FITS

    def bad_views(self) -> list[int]:
        """The fewest views without which the misfit halves, worst first; empty if it takes more than a third of them.

        A wrong view spoils one pair of each good view and all pairs of its own, which their median tells apart.
        """
        views = list(self.outlines.views)
        errors = tangency_errors(self.outlines, self.cameras).max(axis=-1)
        errors[np.isnan(errors).all(axis=1)] = 0
        bad: list[int] = []
        while len(bad) < len(views) // 3:
            left = [place for place, view in enumerate(views) if view not in bad]
            typical = np.nanmedian(errors[np.ix_(left, left)], axis=1)
            bad.append(views[left[int(np.argmax(typical))]])
            if self.without(bad).misfit < self.misfit / 2:
                return bad
        return []

    def without(self, views: list[int]) -> "ViewSet":
        """The set without these views."""
        kept = [view for view in range(len(self.masks.solid)) if view not in views]
        left = [place for place, view in enumerate(self.outlines.views) if view not in views]
        outlines = Outlines(
            tuple(kept.index(self.outlines.views[place]) for place in left),
            self.outlines.uv_norm[left],
            self.outlines.width,
        )
        numbers = tuple(self.numbers[view] for view in kept)
        return ViewSet(self.uid, self.cameras[kept], self.masks[kept], outlines, numbers)

    def swapped(self) -> tuple[int, int] | None:
        """Two views whose cameras were swapped: exchanged, they fit. None if there are no such two."""
        suspects = self.bad_views()[:6]
        views = len(self.masks.solid)
        best, pair = self.misfit / 2, None
        for first in suspects:
            for second in range(views):
                if second == first or (second in suspects and second < first):
                    continue
                order = list(range(views))
                order[first], order[second] = second, first
                mended = self.seen_by(self.cameras[order])
                if mended.tangency < best and mended.fits and mended.misfit < best:
                    best, pair = mended.misfit, (min(first, second), max(first, second))
        return pair

    def own_radii(self) -> Tensor:
        """Factors [F] of the cameras' distances under which the silhouettes agree best; their median is 1."""

        def residuals(factors: NDArray[np.float64]) -> NDArray[np.float64]:
            errors = tangency_errors(self.outlines, at_radii(self.cameras, torch.from_numpy(factors)))
            pairs = errors[np.triu_indices(len(errors), 1)].ravel()
            # A pull to the middle holds the scale of the whole, which silhouettes leave free.
            return np.append(np.nan_to_num(pairs, nan=0.0), 10 * np.log(factors).mean())

        start = np.ones(len(self.cameras.c2w_opencv))
        # Cameras are float32, in which a smaller step is none.
        solved = least_squares(residuals, start, loss="soft_l1", bounds=(1 / 3, 3), diff_step=1e-3)
        factors = torch.from_numpy(solved.x)
        return factors / factors.median()
