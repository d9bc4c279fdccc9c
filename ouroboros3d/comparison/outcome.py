"""A comparison's numbers: every variant's means, and its paired differences from the baseline."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ouroboros3d.comparison.runs import Run
from ouroboros3d.comparison.statistics import PairedMean, holm, mean_known, over_trainings, paired_mean
from ouroboros3d.comparison.training import trained_unlike, unrecorded
from ouroboros3d.comparison.variants import Variant
from ouroboros3d.metrics.columns import column, headline

Verdict = Literal["better", "worse", "undecided", ""]


@dataclass(frozen=True)
class Difference:
    """A variant's paired difference from the baseline in one metric.

    Args:
        mean: every object counts once; NaN without any.
        low: lower end of its 95 % interval.
        high: upper end.
        p: of this metric alone; NaN where there are too few objects.
        corrected: the same, for the number of all headline metrics and variants (Holm); NaN beside the headline.
        trainings: that the interval is over; of 1 it is over objects only, of these very weights.
        pairs: of an object and a run that both have a value of.
        missing: pairs that one of them lacks.
        baseline: the baseline's mean over the same pairs.
        verdict: what the interval says, empty where no direction is better.
    """

    mean: float
    low: float
    high: float
    p: float
    corrected: float
    trainings: int
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
        unlike: in what a variant was trained unlike the baseline, by its name; empty texts are left out.
        marked: whether variants are called better and worse although they were trained unalike.
    """

    variants: Sequence[Variant]
    metrics: Sequence[str]
    values: Mapping[str, NDArray[np.float64]]
    uids: Sequence[str]
    cells: Mapping[tuple[str, str], Cell]
    notes: Sequence[str]
    command: str
    split: str
    unlike: Mapping[str, str]
    marked: bool

    @property
    def baseline(self) -> Variant:
        """The variant that all others are held against."""
        return self.variants[0]

    def title(self, uid: str) -> str:
        """What an object is called, with its uid behind its name where any run knows one."""
        runs = (run for variant in self.variants for run in variant.runs.values())
        name = next((run.titles[uid] for run in runs if uid in run.titles), "")
        return f"{name}, {uid}" if name else uid

    def best(self, metric: str) -> list[str]:
        """Names of the variants with the best mean.

        None where no direction is better, all are equal, some were trained unalike, or the machine and its load count.
        """
        upward = column(metric).higher_is_better
        if column(metric).of_batch or (self.unlike and not self.marked):
            return []
        means = {v.name: self.cells[v.name, metric].mean for v in self.variants}
        known = [mean for mean in means.values() if not math.isnan(mean)]
        if upward is None or len(set(known)) < 2:
            return []
        return [name for name, mean in means.items() if mean == (max(known) if upward else min(known))]

    def differences(self, variant: str, metric: str) -> NDArray[np.float64]:
        """Paired differences from the baseline [T trainings, O], mean over sampling seeds; NaN where missing."""
        other = next(one for one in self.variants if one.name == variant)
        of_base, of_variant = paired_runs(self.baseline, other)
        index = list(self.metrics).index(metric)
        pairs = self.values[variant][of_variant] - self.values[self.baseline.name][of_base]
        return over_trainings(pairs[:, :, index], paired_trainings(self.baseline, other))

    def per_object(self, variant: str, metric: str) -> NDArray[np.float64]:
        """A metric's values [O], mean over seeds; NaN where missing."""
        return mean_known(self.values[variant][:, :, list(self.metrics).index(metric)], 0)


def compare(
    variants: Sequence[Variant],
    baseline: str | None,
    *,
    notes: Sequence[str],
    command: str,
    split: str,
    mark_unlike: bool = False,
) -> Comparison:
    """Compare variants that were tested alike.

    Args:
        variants: at least two.
        baseline: name of one; None = `staged`, else the first.
        notes: what is known about the runs so far.
        command: that makes this comparison again.
        split: whose objects were tested.
        mark_unlike: call variants better and worse although they were trained unlike the baseline.

    Raises:
        ValueError: no variant of the baseline's name; a variant shares no object and seed with the baseline.
    """
    names = [variant.name for variant in variants]
    if baseline is not None and baseline not in names:
        raise ValueError(f"baseline: expected one of {', '.join(names)}, got {baseline}.")
    chosen = names.index(baseline or ("staged" if "staged" in names else names[0]))
    ordered = [variants[chosen], *(variant for variant in variants if variant is not variants[chosen])]
    runs = [run for variant in ordered for run in variant.runs.values()]
    metrics = [name for name in dict.fromkeys(name for run in runs for name in run.values) if column(name).group]
    uids = sorted({uid for run in runs for uid in run.uids})
    values = {v.name: np.stack([_table(run, uids, metrics) for run in v.runs.values()]) for v in ordered}
    base, *others = ordered
    differences = {variant.name: _differences(base, variant, values, metrics) for variant in others}
    unlike = {variant.name: text for variant in others if (text := trained_unlike(_pairs_of_runs(base, variant)))}
    if not mark_unlike:
        for name in unlike:
            differences[name] = {metric: replace(d, verdict="") for metric, d in differences[name].items()}
    _correct(differences, headline(metrics))
    cells: dict[tuple[str, str], Cell] = {}
    for variant in ordered:
        for index, metric in enumerate(metrics):
            known = ~np.isnan(values[variant.name][:, :, index])
            mean = float(values[variant.name][:, :, index][known].mean()) if known.any() else math.nan
            difference = differences[variant.name][metric] if variant is not base else None
            cells[variant.name, metric] = Cell(mean, int(known.any(0).sum()), int(known.any(1).sum()), difference)
    notes = [*notes, *_failures(ordered), *_missing(others, metrics, cells), *_reach(len(uids), base, others)]
    if unknown := unrecorded(runs):
        notes.append(f"Not recorded of all runs, so it may differ: the {', '.join(unknown)} of their training.")
    return Comparison(ordered, metrics, values, uids, cells, notes, command, split, unlike, mark_unlike)


def _table(run: Run, uids: Sequence[str], metrics: Sequence[str]) -> NDArray[np.float64]:
    """[O, K] values of a run in a fixed order of objects and metrics; the row of an object that failed is missing."""
    table = np.full((len(uids), len(metrics)), math.nan)
    rows = [uids.index(uid) for uid in run.uids]
    for index, metric in enumerate(metrics):
        if metric in run.values:
            table[rows, index] = run.values[metric]
    table[[uids.index(uid) for uid in run.failures]] = math.nan
    return table


def _shared(base: Variant, variant: Variant) -> list[str]:
    """Labels of the seeds that both have runs of."""
    return [label for label in base.runs if label in variant.runs]


def _pairs_of_runs(base: Variant, variant: Variant) -> list[tuple[Run, Run]]:
    return [(base.runs[label], variant.runs[label]) for label in _shared(base, variant)]


def paired_trainings(base: Variant, variant: Variant) -> list[tuple[int | None, int | None]]:
    """Of every pair of runs that two variants share, in the baseline's order, which training each of them is of."""
    return [(ours.training, theirs.training) for ours, theirs in _pairs_of_runs(base, variant)]


def paired_runs(base: Variant, variant: Variant) -> tuple[list[int], list[int]]:
    """The places among the baseline's runs and among the variant's of every pair that they share."""
    shared = _shared(base, variant)
    return [list(base.runs).index(label) for label in shared], [list(variant.runs).index(label) for label in shared]


def _differences(
    base: Variant, variant: Variant, values: Mapping[str, NDArray[np.float64]], metrics: Sequence[str]
) -> dict[str, Difference]:
    """A difference from the baseline for every metric, over the objects and seeds that both have."""
    of_base, of_variant = paired_runs(base, variant)
    theirs, ours = values[base.name][of_base], values[variant.name][of_variant]
    pairs = ours - theirs
    known = ~np.isnan(pairs)
    if not known.any():
        seeds = f"seeds {', '.join(variant.runs)} against {', '.join(base.runs)}; test both with the same seeds."
        raise ValueError(
            f"{variant.name}: expected an object and a seed in common with {base.name}, got "
            + ("no object that both have values of." if of_base else seeds)
        )
    trainings = paired_trainings(base, variant)
    found = {}
    for index, metric in enumerate(metrics):
        here = known[:, :, index]
        measured = ~np.isnan(ours[:, :, index]) | ~np.isnan(theirs[:, :, index])
        averaged = over_trainings(pairs[:, :, index], trainings)
        paired = paired_mean(averaged)
        if column(metric).of_batch:
            paired = PairedMean(paired.mean, ())
        low, high = paired.interval
        found[metric] = Difference(
            mean=paired.mean,
            low=low,
            high=high,
            p=paired.p,
            corrected=math.nan,
            trainings=int((~np.isnan(averaged)).any(1).sum()),
            pairs=int(here.sum()),
            missing=int((measured & ~here).sum()),
            baseline=paired_mean(over_trainings(np.where(here, theirs[:, :, index], math.nan), trainings)).mean,
            verdict=_verdict(column(metric).higher_is_better, low, high),
        )
    return found


def _correct(differences: dict[str, dict[str, Difference]], metrics: Sequence[str]) -> None:
    """Correct the p-values of some metrics for how many they are with all variants."""
    family = [(name, metric) for name in differences for metric in metrics]
    corrected = holm(np.array([differences[name][metric].p for name, metric in family]))
    for (name, metric), p in zip(family, corrected.tolist(), strict=True):
        differences[name][metric] = replace(differences[name][metric], corrected=p)


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


def _reach(objects: int, base: Variant, others: Sequence[Variant]) -> list[str]:
    """What the intervals cannot say."""
    notes = []
    if objects < 2:
        notes.append("One object is too few for an interval.")
    once = [variant.name for variant in others if len(set(paired_trainings(base, variant))) == 1]
    if once:
        whose = "" if len(once) == len(others) else f" of {', '.join(once)}"
        notes.append(
            f"One training: the intervals{whose} are over objects only, of these weights; another training may differ."
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
