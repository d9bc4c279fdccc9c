"""From single objects to the mistake behind them: which hypothesis explains what does not fit."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped] # it ships no types

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.readers.poses import Convention
from ouroboros3d.inspection.camera_checks.conventions import (
    Hypothesis,
    at_radii,
    focal,
    hypotheses,
    stored_axis,
    world_up,
)
from ouroboros3d.inspection.camera_checks.silhouette_fit import FITS, ViewSet

# A mistake explains cameras if it leaves less than 0.7 of the misfit, pooled over objects. Where a focal length is 5 %
# off, the right one leaves 0.6; where it is 3 % off, 0.75. Where cameras are right, nothing leaves less than 1.
_EXPLAINS = 0.7
# And it has to be so for four of five objects among those that can tell, which symmetric ones cannot.
_AGREE = 0.8
# Cameras on a ring that are all a view late see the same, so that only objects that are wrong by themselves would tell.
_SHARE = 1 / 3
_FEW = 4  # objects that each could pass as right, to be sure that all are wrong
_PIXEL = 0.05  # of misfit; differences below are rounding
_CAP = 20.0  # pixels; beyond, one object would outvote the others


@dataclass(frozen=True)
class Explanation:
    """A mistake that explains why cameras do not fit.

    Args:
        hypotheses: the mistake; several where the silhouettes fit equally well under each.
        uids: the objects it was seen on.
        tried: objects that were tried.
        before: their mean misfit in pixels.
        after: the same without the mistake.
    """

    hypotheses: tuple[Hypothesis, ...]
    uids: tuple[str, ...]
    tried: int
    before: float
    after: float

    @property
    def of_all(self) -> bool:
        """Whether it is one of the whole data set, not of some objects."""
        return len(self.uids) == self.tried


@dataclass
class Diagnosis:
    """What was found about the cameras of a sample of objects.

    Args:
        explanations: mistakes that explain misfits.
        bad_views: single views that do not fit the others, by uid.
        swapped: pairs of views whose cameras were swapped, by uid.
        own_radii: objects whose views fit with distances of their own.
        unexplained: objects that fit under no hypothesis.
        up: the upward axis of each object's world as the files have it, where it is not the format's.
        mended: cameras that would be right, of the views that were tested, by uid.
    """

    explanations: list[Explanation] = field(default_factory=list)
    bad_views: dict[str, list[int]] = field(default_factory=dict)
    swapped: dict[str, tuple[int, int]] = field(default_factory=dict)
    own_radii: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    up: dict[str, str] = field(default_factory=dict)
    mended: dict[str, Cameras] = field(default_factory=dict)


def diagnose(
    sets: Sequence[ViewSet], stored: Convention | None, advance: Callable[[], None] = lambda: None
) -> Diagnosis:
    """Find what is wrong with the cameras of some objects.

    Args:
        sets: objects, also such that fit: only many together show a mistake that each alone can live with.
        stored: what the reader takes the poses for.
        advance: called after each object that was tried.
    """
    found = Diagnosis()
    sets = [one for one in sets if one.testable]
    costs = []
    for one in sets:
        tried = list(hypotheses(stored, len(one.masks.solid)))
        costs.append(_Costs(one, tried, np.array([_misfit(one, h) for h in tried])))
        advance()
    _explain_all(costs, found)
    _explain_some(costs, found)
    for one in sets:
        read = one.seen_by(found.mended.get(one.uid, one.cameras))
        if not read.fits:
            _single(read, found)
    return found


def find_up(objects: Mapping[str, Cameras], stored: Convention | None, found: Diagnosis) -> None:
    """Note in a diagnosis which objects have another axis than the format's upward.

    Args:
        objects: cameras [F] of each, also of those that were not tested.
        stored: what the reader takes the poses for.
        found: what is known of them; receives `up`.
    """
    mend = next((e.hypotheses[0].mend for e in found.explanations if e.of_all), None)
    for uid, cameras in objects.items():
        up = world_up((mend(cameras) if mend else cameras).c2w_opencv)
        if up not in ("", "+Y"):
            found.up[uid] = stored_axis(stored, up)


@dataclass
class _Costs:
    views: ViewSet
    tried: list[Hypothesis]
    misfits: NDArray[np.float64]

    def of(self, hypothesis: Hypothesis) -> float:
        """Misfit under a hypothesis, as it is called for this object; endless where it was not tried."""
        names = [h.finding for h in self.tried]
        return self.misfits[names.index(hypothesis.finding)] if hypothesis.finding in names else np.inf


def _misfit(one: ViewSet, hypothesis: Hypothesis) -> float:
    mended = one.seen_by(hypothesis.mend(one.cameras))
    # A hull, which takes longest, could make it only worse.
    return mended.tangency if mended.tangency > one.misfit else mended.misfit


def _explain_all(costs: list[_Costs], found: Diagnosis) -> None:
    """A mistake that the whole sample has."""
    if not costs:
        return
    before = np.minimum([c.views.misfit for c in costs], _CAP)
    pooled: list[tuple[float, Hypothesis]] = []
    for hypothesis in costs[0].tried:
        after = np.minimum([c.of(hypothesis) for c in costs], _CAP)
        telling = np.abs(after - before) > np.maximum(_PIXEL, (1 - _EXPLAINS) * np.maximum(before, after))
        better = telling & (after < before)
        needed = 1 if before.mean() > FITS else _FEW
        enough = max(needed, _AGREE * telling.sum(), _SHARE * len(costs))
        if after.sum() < _EXPLAINS * before.sum() and better.sum() >= enough:
            pooled.append((float(after.sum()), hypothesis))
    if not pooled:
        return
    best = min(total for total, _ in pooled)
    # Two readings of one mistake fit equally well, up to rounding.
    equal = tuple(h for total, h in pooled if total <= 1.1 * best + _PIXEL * len(costs))
    if equal[0].kind == "focal":
        equal = (_refined(costs, equal[0]),)
    after_all = [min(_misfit(c.views, equal[0]), _CAP) for c in costs]
    uids = tuple(c.views.uid for c in costs)
    found.explanations.append(Explanation(equal, uids, len(costs), float(before.mean()), float(np.mean(after_all))))
    found.mended.update({c.views.uid: equal[0].mend(c.views.cameras) for c in costs})


def _refined(costs: list[_Costs], coarse: Hypothesis) -> Hypothesis:
    """The focal length that fits best, to a per cent."""

    def total(logarithm: float) -> float:
        hypothesis = focal(math.exp(logarithm))
        return sum(c.views.seen_by(hypothesis.mend(c.views.cameras)).tangency for c in costs)

    start = math.log(coarse.factor)
    solved = minimize_scalar(total, bounds=(start - 0.2, start + 0.2), method="bounded", options={"xatol": 0.005})
    return focal(math.exp(solved.x))


def _explain_some(costs: list[_Costs], found: Diagnosis) -> None:
    """Mistakes of some objects, the most frequent one first."""
    left = [c for c in costs if not c.views.seen_by(found.mended.get(c.views.uid, c.views.cameras)).fits]
    while left:
        healed: dict[str, list[_Costs]] = {}
        named: dict[str, Hypothesis] = {}
        for c in left:
            for hypothesis, misfit in zip(c.tried, c.misfits, strict=True):
                if hypothesis.kind != "focal" and misfit < min(FITS, 0.5 * c.views.misfit):
                    named.setdefault(hypothesis.finding, hypothesis)
                    healed.setdefault(hypothesis.finding, []).append(c)
        if not healed:
            return
        best = max(named, key=lambda name: (len(healed[name]), -sum(c.of(named[name]) for c in healed[name])))
        chosen = healed[best]
        before = float(np.mean([min(c.views.misfit, _CAP) for c in chosen]))
        after = float(np.mean([c.of(named[best]) for c in chosen]))
        uids = tuple(c.views.uid for c in chosen)
        found.explanations.append(Explanation((named[best],), uids, len(costs), before, after))
        found.mended.update({c.views.uid: named[best].mend(c.views.cameras) for c in chosen})
        left = [c for c in left if c not in chosen]


def _single(one: ViewSet, found: Diagnosis) -> None:
    """What is wrong with one object alone."""
    if pair := one.swapped():
        order = list(range(len(one.masks.solid)))
        order[pair[0]], order[pair[1]] = order[pair[1]], order[pair[0]]
        found.swapped[one.uid] = (one.numbers[pair[0]], one.numbers[pair[1]])
        found.mended[one.uid] = one.cameras[order]
        return
    bad = one.bad_views()
    if bad and one.without(bad).fits:
        found.bad_views[one.uid] = [one.numbers[view] for view in bad]
        return
    mended = at_radii(one.cameras, one.own_radii())
    if one.seen_by(mended).fits:
        found.own_radii.append(one.uid)
        found.mended[one.uid] = mended
    else:
        found.unexplained.append(one.uid)
