"""Paired differences over objects and seeds: bootstrap intervals and the signed-rank test."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped] # it ships no types

LEVEL = 0.95


def bootstrap_interval(
    differences: NDArray[np.float64], samples: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile intervals of the mean paired difference.

    Objects are drawn with replacement, and so are seeds where there are several, each for itself: the two-way
    (pigeonhole) bootstrap of Owen (2007), which counts that all objects of a seed share its training. All K columns
    see the same draws.

    Args:
        differences: [S seeds, O objects, K metrics], NaN where a pair is missing; such a pair counts nowhere.
        samples: how many draws.
        seed: of the draws.

    Returns:
        The lower and the upper ends, [K] each; NaN for a metric without any pair.
    """
    seeds, objects, columns = differences.shape
    generator = np.random.default_rng(seed)
    present = ~np.isnan(differences)
    values = np.where(present, differences, 0.0)
    object_counts = _draws(generator, samples, objects)
    seed_counts = _draws(generator, samples, seeds)
    total, count = np.zeros((samples, columns)), np.zeros((samples, columns))
    for index in range(seeds):
        total += seed_counts[:, index, None] * (object_counts @ values[index])
        count += seed_counts[:, index, None] * (object_counts @ present[index].astype(np.float64))
    means = np.divide(total, count, out=np.full_like(total, math.nan), where=count > 0)
    ends = np.full((2, columns), math.nan)
    known = present.any((0, 1))
    tail = (1 - LEVEL) / 2
    ends[:, known] = np.nanquantile(means[:, known], [tail, 1 - tail], axis=0)
    return ends[0], ends[1]


def signed_rank(differences: NDArray[np.float64]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test over objects.

    Args:
        differences: [S seeds, O objects], NaN where a pair is missing; an object counts once, with its mean over seeds.

    Returns:
        1 where no object differs at all; NaN where there are fewer than two objects.
    """
    counts = (~np.isnan(differences)).sum(0)
    means = np.nansum(differences, axis=0)[counts > 0] / counts[counts > 0]
    if means.size < 2:
        return math.nan
    if not means.any():
        return 1.0
    return float(stats.wilcoxon(means).pvalue)


def _draws(generator: np.random.Generator, samples: int, size: int) -> NDArray[np.float64]:
    """How often each of `size` things is drawn, [samples, size]; one thing is always there."""
    return generator.multinomial(size, np.full(size, 1 / size), size=samples).astype(np.float64)
