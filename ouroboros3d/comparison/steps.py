"""Quality over the denoising steps, of every run, object by object."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ouroboros3d.comparison.outcome import Comparison, paired_runs, paired_trainings
from ouroboros3d.comparison.runs import Run
from ouroboros3d.comparison.statistics import PairedMean, over_trainings, paired_mean

Steps = Mapping[str, Mapping[str, NDArray[np.float64]]]
"""By curve and variant, [S runs, O objects, steps], NaN where missing."""


def read_steps(comparison: Comparison) -> Steps:
    """The curves of all variants; of one whose runs had other numbers of steps, or none, nothing."""
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    for variant in comparison.variants:
        tables = [_ordered(run, comparison.uids) for run in variant.runs.values()]
        shared = [name for name in tables[0] if name != "sigma" and all(name in table for table in tables)]
        for name in shared:
            if len({table[name].shape for table in tables}) == 1:
                found.setdefault(name, {})[variant.name] = np.stack([table[name] for table in tables])
    return found


def step_differences(comparison: Comparison, steps: Steps, curve: str, variant: str) -> list[PairedMean]:
    """A variant's difference from the baseline at every step; empty where they have other numbers of steps."""
    base, other = comparison.baseline, next(one for one in comparison.variants if one.name == variant)
    theirs, ours = steps[curve].get(base.name), steps[curve].get(variant)
    if theirs is None or ours is None or theirs.shape[-1] != ours.shape[-1]:
        return []
    of_base, of_variant = paired_runs(base, other)
    pairs = over_trainings(ours[of_variant] - theirs[of_base], paired_trainings(base, other))
    return [paired_mean(pairs[:, :, step]) for step in range(pairs.shape[-1])]


def _ordered(run: Run, uids: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """A run's curves, [O, steps] each in the comparison's order of objects."""
    places = [list(uids).index(uid) for uid in run.uids]
    ordered = {}
    for name, values in run.steps().items():
        ordered[name] = np.full((len(uids), values.shape[1]), math.nan)
        ordered[name][places] = values
    return ordered
