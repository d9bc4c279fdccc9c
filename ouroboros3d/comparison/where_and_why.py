"""Figures of where differences come from: which denoising steps, which objects, which kinds of them, at which cost."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from ouroboros3d.comparison.figures import BETTER, looks, plain_name
from ouroboros3d.comparison.kinds import PARTS, by_kind
from ouroboros3d.comparison.outcome import Comparison
from ouroboros3d.comparison.statistics import mean_known
from ouroboros3d.comparison.steps import Steps, step_differences
from ouroboros3d.metrics.columns import column
from ouroboros3d.reports.plots import INK, plain

STEP_CURVES = {
    "estimate_psnr_foreground": "estimate against truth, PSNR fg (dB)",
    "render_psnr_foreground": "its renders against truth, PSNR fg (dB)",
    "gap_psnr": "estimate against its renders, PSNR (dB)",
}
_COSTS = ("nfe", "recon_calls", "seconds")


def step_curves(comparison: Comparison, steps: Steps) -> Figure:
    """Quality over the denoising steps, and below it every variant's difference from the baseline with its interval."""
    shown = {name: title for name, title in STEP_CURVES.items() if name in steps}
    figure = Figure(figsize=(4.3 * len(shown), 5.6), layout="constrained")
    grid = figure.subplots(2, len(shown), squeeze=False)
    styles = looks(comparison)
    for (above, below), (name, title) in zip(grid.T, shown.items(), strict=True):
        for variant, values in steps[name].items():
            style = styles[variant].line
            above.plot(mean_known(mean_known(values, 0), 0), label=plain_name(variant), linewidth=1.6, **style)
            if variant == comparison.baseline.name:
                continue
            found = step_differences(comparison, steps, name, variant)
            low, high = np.array([each.interval for each in found]).reshape(-1, 2).T
            below.plot([each.mean for each in found], linewidth=1.6, **style)
            below.fill_between(range(len(found)), low, high, color=style["color"], alpha=0.15, linewidth=0)
        plain(above, title)
        plain(below, f"difference from {plain_name(comparison.baseline.name)}")
        below.axhline(0, color=INK, linewidth=0.8)
        below.set_xlabel("denoising step", color=INK, fontsize=9)
        for axes in (above, below):
            axes.set_xlim(above.get_xlim())
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(color=INK, alpha=0.2, linewidth=0.5)
    _legend_below(figure, grid[0, 0])
    return figure


def gains(comparison: Comparison, metrics: Sequence[str]) -> Figure:
    """Each variant's difference from the baseline object by object, sorted, a panel a metric; shaded: better."""
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    height = 2.6 + 0.17 * len(comparison.variants)
    figure = Figure(figsize=(max(3.9 * columns, 4), height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(metrics) :]:
        axes.set_axis_off()
    styles = looks(comparison)
    for axes, metric in zip(grid, metrics, strict=False):
        upward = column(metric).higher_is_better
        for variant in comparison.variants[1:]:
            each = mean_known(comparison.differences(variant.name, metric), 0)
            each = np.sort(each[~np.isnan(each)])
            ahead = int(((each > 0) if upward else (each < 0)).sum())
            counted = "" if upward is None else f": better on {ahead} of {len(each)}"
            place = (np.arange(len(each)) + 0.5) / max(1, len(each))
            label, style = plain_name(variant.name) + counted, styles[variant.name].line
            axes.plot(place, each, marker=".", markersize=4, linewidth=1, label=label, **style)
        axes.axhline(0, color=INK, linewidth=0.8)
        if upward is not None:
            low, high = axes.get_ylim()
            axes.fill_between((0, 1), 0, high if upward else low, color=BETTER, alpha=0.10, linewidth=0)
            axes.set_ylim(low, high)
        plain(axes, column(metric).title)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("objects, sorted by their difference", color=INK, fontsize=9)
        look = {"frameon": False, "fontsize": 8, "labelcolor": INK, "labelspacing": 0.3}
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), **look)
    return figure


def by_kinds(comparison: Comparison, metric: str, kinds: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Each variant's difference in a metric for thirds of the objects, with intervals, a panel a property."""
    columns = min(3, len(kinds))
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(max(3.9 * columns, 4), 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes in grid[len(kinds) :]:
        axes.set_axis_off()
    styles, others = looks(comparison), comparison.variants[1:]
    for axes, (name, kind) in zip(grid, kinds.items(), strict=False):
        ranges: list[tuple[float, float]] = []
        for index, variant in enumerate(others):
            found = by_kind(comparison, variant.name, metric, kind)
            ranges = ranges or [ends for ends, _ in found]
            place = np.arange(len(found)) + 0.6 * ((index + 0.5) / len(others) - 0.5)
            half = [paired.half_width() for _, paired in found]
            means = [paired.mean for _, paired in found]
            style = styles[variant.name]
            options = {"label": plain_name(variant.name), "marker": style.marker, "markersize": 5, "elinewidth": 1.2}
            axes.errorbar(place, means, np.nan_to_num(half), linewidth=0.8, **options, **style.line)
        axes.axhline(0, color=INK, linewidth=0.8)
        plain(axes, f"thirds by {name}")
        axes.set_xlim(-0.5, PARTS - 0.5)
        axes.set_xticks(range(len(ranges)), [f"{low:.3g} to {high:.3g}" for low, high in ranges])
    for axes in grid[::columns]:
        axes.set_ylabel(f"difference, {column(metric).title}", color=INK, fontsize=8.5)
    _legend_below(figure, grid[0])
    return figure


def cost_of_gain(comparison: Comparison, metric: str) -> Figure | None:
    """Each variant's difference in a metric with its interval over what a generation costs, a panel a cost.

    None where no cost differs between variants.
    """
    known = [cost for cost in _COSTS if cost in comparison.metrics]
    means = {cost: [comparison.cells[v.name, cost].mean for v in comparison.variants] for cost in known}
    shown = {cost: values for cost, values in means.items() if len(set(values)) > 1}
    if not shown:
        return None
    figure = Figure(figsize=(3.9 * len(shown), 3.3), layout="constrained")
    grid = figure.subplots(1, len(shown), squeeze=False, sharey=True).ravel()
    styles = looks(comparison)
    for axes, (cost, values) in zip(grid, shown.items(), strict=True):
        for variant, value in zip(comparison.variants, values, strict=True):
            found = comparison.cells[variant.name, metric].difference
            mean, half = (found.mean, found.mean - found.low) if found else (0.0, 0.0)
            style = styles[variant.name]
            options = {"color": style.line["color"], "marker": style.marker, "markersize": 7, "linestyle": "none"}
            half = np.nan_to_num(half)
            axes.errorbar([value], [mean], [half], label=plain_name(variant.name), elinewidth=1.2, **options)
        axes.axhline(0, color=INK, linewidth=0.8)
        plain(axes)
        axes.set_xlim(0, 1.08 * max(values))
        axes.set_xlabel(f"{column(cost).label} an object", color=INK, fontsize=9)
        axes.grid(color=INK, alpha=0.2, linewidth=0.5)
    grid[0].set_ylabel(f"difference, {column(metric).title}", color=INK, fontsize=8.5)
    _legend_below(figure, grid[0])
    return figure


def _legend_below(figure: Figure, axes: Axes) -> None:
    """One for all panels, of what one of them shows, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    look = {"frameon": False, "fontsize": 8, "labelcolor": INK, "ncols": min(len(labels), 4)}
    figure.legend(handles, labels, loc="outside lower center", **look)
