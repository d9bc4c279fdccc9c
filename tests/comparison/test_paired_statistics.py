"""Intervals and p-values against closed forms, SciPy and a slow twin."""

import math

import numpy as np
import pytest
from scipy import stats

from ouroboros3d.comparison.statistics import bootstrap_interval, signed_rank


def slow_interval(differences: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """The two-way bootstrap said plainly: draw seeds, draw objects, average what is there."""
    generator = np.random.default_rng(seed)
    seeds, objects = differences.shape
    means = [
        np.nanmean(
            differences[np.ix_(generator.integers(seeds, size=seeds), generator.integers(objects, size=objects))]
        )
        for _ in range(samples)
    ]
    return np.quantile(means, [0.025, 0.975])


def test_a_constant_difference_has_an_interval_without_width():
    differences = np.full((2, 8, 1), 0.3)
    low, high = bootstrap_interval(differences, 1000, 0)
    # Sums of sixteen terms in another order.
    assert low == pytest.approx([0.3], rel=1e-14)
    assert high == pytest.approx([0.3], rel=1e-14)
    assert np.all(np.concatenate(bootstrap_interval(np.zeros((2, 8, 1)), 1000, 0)) == 0)


def test_one_seed_agrees_with_scipy():
    values = np.random.default_rng(1).normal(0.2, 1.0, size=30)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    low, high = bootstrap_interval(values[None, :, None], 20_000, 3)
    # Both are quantiles of 20,000 draws: their own error is about 0.01 of the spread 1 / sqrt(30).
    assert low[0] == pytest.approx(theirs.low, abs=0.01)
    assert high[0] == pytest.approx(theirs.high, abs=0.01)


@pytest.mark.parametrize("missing", [0, 5])
def test_several_seeds_agree_with_the_slow_twin(missing):
    generator = np.random.default_rng(4)
    differences = generator.normal(size=(3, 12)) + generator.normal(size=(3, 1)) + generator.normal(size=(1, 12))
    differences.ravel()[generator.choice(36, missing, replace=False)] = math.nan
    low, high = bootstrap_interval(differences[:, :, None], 20_000, 5)
    expected = slow_interval(differences, 20_000, 6)
    # Quantiles of 20,000 draws with a spread of about 0.7; worst seen 0.012.
    assert [low[0], high[0]] == pytest.approx(expected, abs=0.04)


def test_metrics_are_drawn_together_and_missing_ones_stay_missing():
    values = np.random.default_rng(7).normal(size=(2, 10, 1))
    table = np.concatenate([values, 2 * values, np.full_like(values, math.nan)], axis=-1)
    low, high = bootstrap_interval(table, 500, 8)
    assert 2 * low[0] == pytest.approx(low[1])
    assert 2 * high[0] == pytest.approx(high[1])
    assert math.isnan(low[2])
    assert math.isnan(high[2])
    alone = bootstrap_interval(values, 500, 8)
    assert alone[0][0] == low[0]
    assert bootstrap_interval(values, 500, 8)[0] == alone[0]
    assert bootstrap_interval(values, 500, 9)[0] != alone[0]


@pytest.mark.parametrize(
    ("objects", "seeds", "between_seeds", "expected"),
    [(30, 1, 0.0, 0.95), (8, 1, 0.0, 0.90), (8, 2, 0.5, 0.88)],
)
def test_coverage_is_what_the_notes_say(objects, seeds, between_seeds, expected):
    """How often the interval holds the true difference 1: nearly 95 % with many objects, about 90 % with few."""
    generator = np.random.default_rng(10)
    studies, held = 400, 0
    for study in range(studies):
        spread = generator.normal(size=(1, objects)) + between_seeds * generator.normal(size=(seeds, 1))
        low, high = bootstrap_interval((1 + spread + generator.normal(size=(seeds, objects)))[..., None], 500, study)
        held += low[0] <= 1 <= high[0]
    assert held / studies == pytest.approx(expected, abs=0.035)  # two standard errors of 400 studies are 0.03


def test_signed_rank_agrees_with_scipy_and_with_counting():
    differences = np.random.default_rng(11).normal(0.4, 1.0, size=(2, 12))
    assert signed_rank(differences) == pytest.approx(stats.wilcoxon(differences.mean(0)).pvalue)
    # Five objects, all better: of the 2^5 patterns of signs only this one and its opposite are as extreme.
    assert signed_rank(np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])) == pytest.approx(2 / 32)
    assert signed_rank(-np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])) == pytest.approx(2 / 32)


def test_signed_rank_without_enough_to_tell():
    assert signed_rank(np.zeros((1, 8))) == 1.0
    assert math.isnan(signed_rank(np.array([[1.0, math.nan]])))
    assert math.isnan(signed_rank(np.full((2, 4), math.nan)))


def test_signed_rank_takes_an_object_once_with_what_it_has():
    differences = np.array([[1.0, 2.0, 3.0, 4.0, math.nan, 5.0], [3.0, math.nan, 3.0, 4.0, math.nan, 7.0]])
    assert signed_rank(differences) == pytest.approx(stats.wilcoxon([2.0, 2.0, 3.0, 4.0, 6.0]).pvalue)
