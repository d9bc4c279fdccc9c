"""Paired differences over objects and trainings: their mean, an interval that holds it, and p-values."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats  # type: ignore[import-untyped] # it ships no types

LEVEL = 0.95


@dataclass(frozen=True)
class PairedMean:
    """A mean paired difference, and what its uncertainty is made of.

    The interval is about other objects and, where there are several trainings, about other trainings too: its half
    width is the root of the summed squares of the two t-intervals that objects and trainings have each for themselves.
    Howe (1974) and Graybill and Wang (1980) build intervals so for sums of variances that are known with few degrees of
    freedom. What objects and trainings share is counted in both parts, so it is rather too wide than too narrow; a test
    simulates how often it holds the true difference.

    Args:
        mean: every object counts once; NaN without any.
        parts: variance of the mean and degrees of freedom, of the objects and, where there are several, of the
            trainings; empty where there are too few of either to tell.
    """

    mean: float
    parts: tuple[tuple[float, int], ...]

    def half_width(self, level: float = LEVEL) -> float:
        """Of the interval on both sides of the mean; NaN where it is unknown."""
        if not self.parts:
            return math.nan
        return math.sqrt(sum(_quantile((1 + level) / 2, freedom) ** 2 * variance for variance, freedom in self.parts))

    @property
    def interval(self) -> tuple[float, float]:
        """The lower and the upper end at `LEVEL`."""
        half = self.half_width()
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float:
        """The two-sided p-value: 1 less the level at which the interval just reaches 0; NaN where that is unknown.

        With one training it is that of the paired t-test over objects.
        """
        if not self.parts:
            return math.nan
        if self.mean == 0:
            return 1.0
        least = 1e-9  # no table shows less
        if self.half_width(1 - least) <= abs(self.mean):
            return least
        found = optimize.brentq(lambda p: self.half_width(1 - p) - abs(self.mean), least, 1.0, xtol=1e-10)
        return float(found)


def over_trainings(differences: NDArray[np.float64], trainings: Sequence[Hashable]) -> NDArray[np.float64]:
    """Differences averaged over the sampling seeds of each training.

    Args:
        differences: [S, ...] one of a run, NaN where missing; what is missing does not count.
        trainings: which training each of the S runs is of.

    Returns:
        [T, ...] in the order in which the trainings come first.
    """
    members = [differences[[of == training for of in trainings]] for training in dict.fromkeys(trainings)]
    return np.stack([mean_known(runs, 0) for runs in members])


def paired_mean(differences: NDArray[np.float64]) -> PairedMean:
    """The mean difference over objects, with what its interval is made of.

    Args:
        differences: [T trainings, O objects], NaN where missing. An object counts with its mean over the trainings that
            it has; a training's own effect is taken from the objects that all trainings have.
    """
    differences = differences[(~np.isnan(differences)).any(1)]
    objects = mean_known(differences, 0)
    objects = objects[~np.isnan(objects)]
    if objects.size < 2:
        return PairedMean(float(objects.mean()) if objects.size else math.nan, ())
    parts = [_part(objects)]
    if len(differences) > 1:
        complete = differences[:, ~np.isnan(differences).any(0)]
        if not complete.size:
            return PairedMean(float(objects.mean()), ())
        parts.append(_part(complete.mean(1)))
    return PairedMean(float(objects.mean()), tuple(parts))


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """P-values corrected for being many, so that one of them is below 0.05 by chance in 1 of 20 tables at most.

    Holm (1979): step-down Bonferroni, which holds whatever the metrics have to do with each other.

    Args:
        p: [n], NaN where there is none; such a one is not counted.
    """
    corrected = np.full(p.shape, math.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.maximum.accumulate(np.minimum(p[order] * factors, 1.0))
    return corrected


def mean_known(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """The mean along an axis of what is not NaN, NaN where nothing is."""
    counts = (~np.isnan(values)).sum(axis)
    means: NDArray[np.float64] = np.nansum(values, axis=axis) / np.where(counts, counts, math.nan)
    return means


def _part(means: NDArray[np.float64]) -> tuple[float, int]:
    """Variance of the mean of some means [n >= 2], and its degrees of freedom; exactly 0 where all are equal."""
    equal = bool((means == means[0]).all())  # as counts are: of equal numbers numpy's deviation may be 1e-17
    return 0.0 if equal else float(means.var(ddof=1)) / means.size, means.size - 1


@cache
def _quantile(probability: float, freedom: int) -> float:
    return float(stats.t.ppf(probability, freedom))
