"""Figures of a comparison: differences with intervals, objects one by one, and curves over the denoising steps."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ouroboros3d.comparison.outcome import Comparison
from ouroboros3d.metrics.columns import column
from ouroboros3d.reports.plots import INK, plain

# Okabe and Ito's colours, told apart by all kinds of eyes, less the yellow that white swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6BB1", "#7F7F7F")
_VERDICTS = {"better": "#009E73", "worse": "#D55E00", "undecided": "#8E9299", "": "#8E9299"}
_CURVES = {
    "estimate_psnr_foreground": "estimate against truth, PSNR fg (dB)",
    "render_psnr_foreground": "its renders against truth, PSNR fg (dB)",
    "gap_psnr": "estimate against its renders, PSNR (dB)",
}


def differences(comparison: Comparison, metrics: Sequence[str]) -> Figure:
    """Every variant's difference from the baseline as a bar with its interval, a panel a metric; means beside them."""
    others = comparison.variants[1:]
    columns = min(3, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    layout = ConstrainedLayoutEngine(h_pad=0.1)
    figure = Figure(figsize=(3.9 * columns, (0.95 + 0.3 * len(others)) * rows), layout=layout)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(metrics) :]:
        axes.set_axis_off()
    for index, (axes, metric) in enumerate(zip(grid, metrics, strict=False)):
        cells = [comparison.cells[variant.name, metric] for variant in others]
        for row, cell in enumerate(cells):
            if (d := cell.difference) is None or math.isnan(d.mean):
                continue
            axes.barh(row, d.mean, 0.62, color=_VERDICTS[d.verdict], alpha=0.75)
            axes.plot([d.low, d.high], [row, row], color=INK, linewidth=1.6, solid_capstyle="butt")
            axes.plot([d.low, d.high], [row, row], "|", color=INK, markersize=7, markeredgewidth=1.6)
        baseline = comparison.cells[comparison.baseline.name, metric].mean
        plain(axes, f"{column(metric).title}\n{_text(comparison.baseline.name)} {column(metric).text(baseline)}")
        axes.axvline(0, color=INK, linewidth=0.8)
        names = [_text(variant.name) for variant in others] if index % columns == 0 else ["" for _ in others]
        axes.set_yticks(range(len(others)), names)
        axes.set_ylim(len(others) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=5)
        for row, cell in enumerate(cells):  # after the limits are known
            axes.annotate(
                column(metric).text(cell.mean),
                (1, row),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=INK,
                annotation_clip=False,
            )
    return figure


def scatter(comparison: Comparison, metrics: Sequence[str]) -> Figure:
    """Each object's value of the baseline against that of every other variant, a panel a metric; shaded: better."""
    columns = min(4, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    height = 3.4 + 0.18 * len(comparison.variants)
    figure = Figure(figsize=(max(2.9 * columns, 3.4), height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(metrics) :]:
        axes.set_axis_off()
    colours = colours_of(comparison)
    for axes, metric in zip(grid, metrics, strict=False):
        upward = column(metric).higher_is_better
        base = comparison.per_object(comparison.baseline.name, metric)
        for variant in comparison.variants[1:]:
            values = comparison.per_object(variant.name, metric)
            known = ~np.isnan(base) & ~np.isnan(values)
            ahead = int(((values > base) if upward else (values < base))[known].sum())
            counted = "" if upward is None else f": {ahead} of {int(known.sum())}"
            style = {"color": colours[variant.name], "markersize": 5, "alpha": 0.75, "markeredgewidth": 0}
            axes.plot(base[known], values[known], "o", label=_text(variant.name) + counted, **style)
        ends = min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])
        if upward is not None:
            axes.fill_between(ends, ends, ends[1] if upward else ends[0], color=_VERDICTS["better"], alpha=0.10, lw=0)
        axes.plot(ends, ends, color=INK, linewidth=0.8)
        plain(axes, column(metric).title)
        axes.set(xlim=ends, ylim=ends, aspect="equal")
        axes.set_xlabel(_text(comparison.baseline.name), color=INK, fontsize=9)
        axes.locator_params(nbins=5)
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "handletextpad": 0.1}
        title = "" if upward is None else "better on"
        legend = axes.legend(frameon=False, fontsize=8, labelcolor=INK, labelspacing=0.3, title=title, **place)
        legend.get_title().set(fontsize=8, color=INK)
    return figure


def step_curves(comparison: Comparison, curves: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> Figure:
    """Quality over the denoising steps.

    Args:
        comparison: whose variants have the curves.
        curves: of each variant by name, [steps] each.
    """
    shown = {name: title for name, title in _CURVES.items() if any(name in columns for columns in curves.values())}
    figure = Figure(figsize=(4.3 * max(1, len(shown)), 3.4), layout="constrained")
    grid = figure.subplots(1, max(1, len(shown)), squeeze=False).ravel()
    colours = colours_of(comparison)
    for axes, (name, title) in zip(grid, shown.items(), strict=False):
        for variant, columns in curves.items():
            if name in columns:
                axes.plot(columns[name], label=_text(variant), color=colours[variant], linewidth=1.6)
        plain(axes, title)
        axes.set_xlabel("denoising step", color=INK, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=INK, alpha=0.2, linewidth=0.5)
    if shown:
        grid[0].legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def _text(name: str) -> str:
    """A name that matplotlib takes neither for mathematics nor, with an underscore first, for one to leave out."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def colours_of(comparison: Comparison) -> dict[str, str]:
    """A colour for each variant, the same in every figure."""
    return {v.name: COLOURS[index % len(COLOURS)] for index, v in enumerate(comparison.variants)}
