"""A comparison's numbers: every variant's means, and its paired differences from the baseline."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ouroboros3d.comparison.runs import Run
from ouroboros3d.comparison.statistics import bootstrap_interval, signed_rank
from ouroboros3d.comparison.variants import Variant
from ouroboros3d.metrics.directions import higher_is_better

Verdict = Literal["better", "worse", "undecided", ""]
_FEW_OBJECTS, _FEW_SEEDS = 20, 4  # below either, intervals are too narrow; a test measures how much
_OF_A_BATCH = {"seconds", "peak_memory_mib"}  # shared by its objects, so an interval over objects would be of width 0
_LEAST_OBJECTS = 5  # below, the bootstrap knows next to nothing: of one object it would say that all are like it


@dataclass(frozen=True)
class Difference:
    """A variant's paired difference from the baseline in one metric.

    Args:
        mean: over all pairs; NaN without any.
        low: lower end of its 95 % interval.
        high: upper end.
        p: of the signed-rank test over objects, uncorrected; NaN where there are too few.
        pairs: of an object and a seed that both have a value of.
        missing: pairs that one of them lacks.
        baseline: the baseline's mean over the same pairs.
        verdict: what the interval says, empty where no direction is better.
    """

    mean: float
    low: float
    high: float
    p: float
    pairs: int
    missing: int
    baseline: float
    verdict: Verdict


@dataclass(frozen=True)
class Cell:
    """One variant and metric.

    Args:
        mean: over objects and seeds that have a value; NaN without any.
        objects: that have one.
        seeds: that have one.
        difference: from the baseline; None for the baseline itself.
    """

    mean: float
    objects: int
    seeds: int
    difference: Difference | None


@dataclass(frozen=True)
class Comparison:
    """Everything that tables, figures and dashboard show.

    Args:
        variants: in the order of the tables, the baseline first.
        metrics: names of metrics and costs, in the order of results.csv.
        values: of each variant, [S seeds, O objects, K metrics], NaN where missing.
        uids: of the O objects.
        cells: by names of variant and metric.
        notes: what a reader has to know, a sentence each.
        command: that makes this comparison again.
        split: whose objects were tested.
        samples: of the bootstrap.
        seed: of the bootstrap.
    """

    variants: Sequence[Variant]
    metrics: Sequence[str]
    values: Mapping[str, NDArray[np.float64]]
    uids: Sequence[str]
    cells: Mapping[tuple[str, str], Cell]
    notes: Sequence[str]
    command: str
    split: str
    samples: int
    seed: int

    @property
    def baseline(self) -> Variant:
        """The variant that all others are held against."""
        return self.variants[0]

    def best(self, metric: str) -> list[str]:
        """Names of the variants with the best mean, none where no direction is better or all are equal."""
        upward = higher_is_better(metric)
        means = {v.name: self.cells[v.name, metric].mean for v in self.variants}
        known = [mean for mean in means.values() if not math.isnan(mean)]
        if upward is None or len(set(known)) < 2:
            return []
        return [name for name, mean in means.items() if mean == (max(known) if upward else min(known))]

    def per_object(self, variant: str, metric: str) -> NDArray[np.float64]:
        """A metric's values [O], mean over seeds; NaN where missing."""
        values = self.values[variant][:, :, list(self.metrics).index(metric)]
        counts = (~np.isnan(values)).sum(0)
        means: NDArray[np.float64] = np.nansum(values, axis=0) / np.where(counts, counts, math.nan)
        return means


def compare(
    variants: Sequence[Variant],
    baseline: str | None,
    *,
    notes: Sequence[str],
    command: str,
    split: str,
    samples: int,
    seed: int,
) -> Comparison:
    """Compare variants that were tested alike.

    Args:
        variants: at least two.
        baseline: name of one; None = `staged`, else the first.
        notes: what is known about the runs so far.
        command: that makes this comparison again.
        split: whose objects were tested.
        samples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: no variant of the baseline's name; a variant shares no object and seed with the baseline.
    """
    names = [variant.name for variant in variants]
    if baseline is not None and baseline not in names:
        raise ValueError(f"baseline: expected one of {', '.join(names)}, got {baseline}.")
    chosen = names.index(baseline or ("staged" if "staged" in names else names[0]))
    ordered = [variants[chosen], *(variant for variant in variants if variant is not variants[chosen])]
    runs = [run for variant in ordered for run in variant.runs.values()]
    metrics = [name for name in dict.fromkeys(name for run in runs for name in run.values) if name != "batch_size"]
    uids = sorted({uid for run in runs for uid in run.uids})
    values = {v.name: np.stack([_table(run, uids, metrics) for run in v.runs.values()]) for v in ordered}
    base = ordered[0]
    cells: dict[tuple[str, str], Cell] = {}
    for variant in ordered:
        differences = None if variant is base else _differences(base, variant, values, metrics, samples, seed)
        for index, metric in enumerate(metrics):
            known = ~np.isnan(values[variant.name][:, :, index])
            mean = float(values[variant.name][:, :, index][known].mean()) if known.any() else math.nan
            difference = differences[index] if differences else None
            cells[variant.name, metric] = Cell(mean, int(known.any(0).sum()), int(known.any(1).sum()), difference)
    notes = [*notes, *_failures(ordered), *_missing(ordered[1:], metrics, cells)]
    notes += _reach(len(uids), max(len(variant.runs) for variant in ordered))
    return Comparison(ordered, metrics, values, uids, cells, notes, command, split, samples, seed)


def _table(run: Run, uids: Sequence[str], metrics: Sequence[str]) -> NDArray[np.float64]:
    """[O, K] values of a run in a fixed order of objects and metrics; the row of an object that failed is missing."""
    table = np.full((len(uids), len(metrics)), math.nan)
    rows = [uids.index(uid) for uid in run.uids]
    for index, metric in enumerate(metrics):
        if metric in run.values:
            table[rows, index] = run.values[metric]
    table[[uids.index(uid) for uid in run.failures]] = math.nan
    return table


def _differences(
    base: Variant,
    variant: Variant,
    values: Mapping[str, NDArray[np.float64]],
    metrics: Sequence[str],
    samples: int,
    seed: int,
) -> list[Difference]:
    """A difference from the baseline for every metric, over the objects and seeds that both have."""
    shared = [label for label in base.runs if label in variant.runs]
    theirs = values[base.name][[list(base.runs).index(label) for label in shared]]
    ours = values[variant.name][[list(variant.runs).index(label) for label in shared]]
    pairs = ours - theirs
    known = ~np.isnan(pairs)
    if not known.any():
        seeds = f"seeds {', '.join(variant.runs)} against {', '.join(base.runs)}; test both with the same seeds."
        raise ValueError(
            f"{variant.name}: expected an object and a seed in common with {base.name}, got "
            + ("no object that both have values of." if shared else seeds)
        )
    low, high = bootstrap_interval(pairs, samples, seed)
    unknown = known.any(0).sum(0) < _LEAST_OBJECTS
    unknown |= np.array([metric in _OF_A_BATCH for metric in metrics])
    low[unknown], high[unknown] = math.nan, math.nan
    found = []
    for index, metric in enumerate(metrics):
        here = known[:, :, index]
        mean, baseline = (
            float(table[:, :, index][here].mean()) if here.any() else math.nan for table in (pairs, theirs)
        )
        measured = ~np.isnan(ours[:, :, index]) | ~np.isnan(theirs[:, :, index])
        verdict = _verdict(higher_is_better(metric), float(low[index]), float(high[index]))
        found.append(
            Difference(
                mean,
                float(low[index]),
                float(high[index]),
                math.nan if metric in _OF_A_BATCH else signed_rank(pairs[:, :, index]),
                int(here.sum()),
                int((measured & ~here).sum()),
                baseline,
                verdict,
            )
        )
    return found


def _verdict(upward: bool | None, low: float, high: float) -> Verdict:
    if upward is None or math.isnan(low):
        return ""
    if low <= 0 <= high:
        return "undecided"
    return "better" if (low > 0) == upward else "worse"


def _failures(variants: Sequence[Variant]) -> list[str]:
    return [
        f"{run.folder}: {len(run.failures)} of {len(run.uids)} objects failed "
        f"({'; '.join(f'{uid}: {error}' for uid, error in run.failures.items())}) and count as missing."
        for variant in variants
        for run in variant.runs.values()
        if run.failures
    ]


def _reach(objects: int, seeds: int) -> list[str]:
    """What the intervals cannot say."""
    notes = []
    if objects < _LEAST_OBJECTS:
        notes.append(f"{objects} objects are too few for an interval: at least {_LEAST_OBJECTS} are needed.")
    if seeds == 1:
        notes.append("One seed: the intervals are about other objects, not about another training or other noise.")
    few = [f"{objects} objects"] if objects < _FEW_OBJECTS else []
    few += [f"{seeds} seeds"] if 1 < seeds < _FEW_SEEDS else []
    if few:
        notes.append(
            f"{' and '.join(few)} are few: such intervals are too narrow and hold the true difference at best 9 times "
            "in 10, not 19 in 20."
        )
    return notes


def _missing(variants: Sequence[Variant], metrics: Sequence[str], cells: Mapping[tuple[str, str], Cell]) -> list[str]:
    """Where pairs had to be left out, a sentence a variant."""
    notes = []
    for variant in variants:
        left: dict[int, list[str]] = {}
        for metric in metrics:
            difference = cells[variant.name, metric].difference
            if difference and difference.missing:
                left.setdefault(difference.missing, []).append(metric)
        listed = "; ".join(
            f"{count} in {', '.join(names) if len(names) < 5 else f'{len(names)} metrics'}"
            for count, names in sorted(left.items())
        )
        if left:
            notes.append(f"{variant.name}: pairs left out because one of the two values is missing: {listed}.")
    return notes
