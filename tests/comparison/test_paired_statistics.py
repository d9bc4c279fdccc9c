"""Intervals and p-values against closed forms, SciPy, and a simulation of how often they hold the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from ouroboros3d.comparison.statistics import holm, over_trainings, paired_mean


def test_a_constant_difference_has_an_interval_without_width():
    found = paired_mean(np.full((2, 8), 0.3))
    assert found.interval == pytest.approx((0.3, 0.3), abs=1e-15)
    assert found.p < 1e-8
    nothing = paired_mean(np.zeros((2, 8)))
    assert (nothing.interval, nothing.p) == ((0.0, 0.0), 1.0)


def test_one_training_is_the_t_test_over_objects():
    values = np.random.default_rng(1).normal(0.2, 1.0, size=(1, 12))
    found, theirs = paired_mean(values), stats.ttest_1samp(values[0], 0.0)
    assert found.mean == pytest.approx(values.mean())
    assert found.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-6)


def test_two_trainings_by_hand():
    # Objects' means 2, 3, 4: deviation 1. Trainings' means 2.5, 3.5: deviation sqrt(0.5).
    found = paired_mean(np.array([[1.0, 3.0, 3.5], [3.0, 3.0, 4.5]]))
    objects, trainings = 4.303**2 * 1 / 3, 12.706**2 * 0.5 / 2  # t quantiles of a table, 2 and 1 degrees of freedom
    half = math.sqrt(objects + trainings)
    assert found.mean == 3
    assert found.interval == pytest.approx((3 - half, 3 + half), rel=1e-3)
    assert found.half_width(1 - found.p) == pytest.approx(3)  # the level at which 0 is just left out


@pytest.mark.parametrize(
    ("trainings", "objects"), [(1, 8), (1, 30), (1, 150), (2, 8), (2, 30), (2, 150), (3, 8), (3, 30), (3, 150)]
)
@pytest.mark.parametrize("between_trainings", [0.0, 0.5])
def test_intervals_hold_the_true_difference_as_often_as_they_say(trainings, objects, between_trainings):
    """Objects deviate by 1, the rest by 0.5. A bootstrap over both held it 80 to 83 times in 100 with two trainings."""
    generator = np.random.default_rng(10)
    studies, held = 600, 0
    for _ in range(studies):
        spread = generator.normal(size=(1, objects)) + 0.5 * generator.normal(size=(trainings, objects))
        if trainings > 1:  # the interval of one training is about its own weights
            spread += between_trainings * generator.normal(size=(trainings, 1))
        low, high = paired_mean(1 + spread).interval
        held += low <= 1 <= high
    assert held / studies > 0.932  # 95 % less two standard errors of 600 studies; lowest seen 0.943, highest 0.995


def test_p_values_are_rarely_small_where_nothing_differs():
    generator = np.random.default_rng(12)
    found = [
        paired_mean(
            generator.normal(size=(1, 30)) + 0.5 * generator.normal(size=(2, 1)) + generator.normal(size=(2, 30))
        ).p
        for _ in range(400)
    ]
    assert np.mean(np.array(found) < 0.05) < 0.05 + 0.022  # two standard errors of 400 studies


def test_sampling_seeds_of_a_training_are_averaged_first():
    runs = np.array([[1.0, 2.0], [3.0, math.nan], [10.0, 20.0]])
    averaged = over_trainings(runs, ["a", "a", "b"])
    assert averaged.tolist() == [[2.0, 2.0], [10.0, 20.0]]
    # Four runs of two trainings are two trainings, however often each was sampled.
    assert paired_mean(over_trainings(np.array([[1.0, 2.0]] * 2 + [[2.0, 3.0]] * 2), [0, 0, 1, 1])).parts[1][1] == 1


def test_what_is_missing_counts_nowhere():
    # The second training lacks the object that gains most: its own effect is taken from the objects that both have.
    found = paired_mean(np.array([[1.0, 2.0, 9.0, math.nan], [1.0, 2.0, math.nan, math.nan]]))
    assert found.mean == 4
    assert found.parts[0] == (pytest.approx(np.var([1, 2, 9], ddof=1) / 3), 2)
    assert found.parts[1] == (0, 1)
    # A training without any value is none.
    assert len(paired_mean(np.array([[1.0, 2.0], [math.nan] * 2])).parts) == 1


@pytest.mark.parametrize(
    ("differences", "mean"),
    [
        ([[math.nan, math.nan]], math.nan),
        ([[1.0, math.nan]], 1.0),
        ([[1.0, math.nan], [math.nan, 2.0]], 1.5),  # two trainings that share no object
    ],
)
def test_too_little_to_tell_has_no_interval(differences, mean):
    found = paired_mean(np.array(differences))
    assert found.mean == pytest.approx(mean, nan_ok=True)
    assert all(map(math.isnan, (*found.interval, found.p)))


def test_holm_by_hand():
    # 4 x 0.01, 3 x 0.02, then no less than before it, at most 1; a missing one is not counted.
    corrected = holm(np.array([0.5, 0.01, math.nan, 0.021, 0.02]))
    assert corrected == pytest.approx([0.5, 0.04, math.nan, 0.06, 0.06], nan_ok=True)
    assert holm(np.array([0.4, 0.9])).tolist() == [0.8, 0.9]
