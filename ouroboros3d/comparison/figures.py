"""Figures of a comparison: differences with intervals, and objects one by one."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ouroboros3d.comparison.outcome import Comparison
from ouroboros3d.metrics.columns import column
from ouroboros3d.reports.plots import INK, plain

# Okabe and Ito's colours, told apart by all kinds of eyes, less the yellow that white swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6BB1", "#7F7F7F")
BETTER = "#009E73"
_VERDICTS = {"better": BETTER, "worse": "#D55E00", "undecided": "#8E9299", "": "#8E9299"}
_LINES, _MARKERS = ("-", "--", ":"), ("o", "s", "^")


class Look(NamedTuple):
    """How a variant is drawn.

    line: keywords of its lines, `color` and `linestyle`.
    marker: of its points.
    """

    line: dict[str, Any]
    marker: str


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
        plain(axes, f"{column(metric).title}\n{plain_name(comparison.baseline.name)} {column(metric).text(baseline)}")
        axes.axvline(0, color=INK, linewidth=0.8)
        names = [plain_name(variant.name) for variant in others] if index % columns == 0 else ["" for _ in others]
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
    styles = looks(comparison)
    for axes, metric in zip(grid, metrics, strict=False):
        upward = column(metric).higher_is_better
        base = comparison.per_object(comparison.baseline.name, metric)
        for variant in comparison.variants[1:]:
            values = comparison.per_object(variant.name, metric)
            known = ~np.isnan(base) & ~np.isnan(values)
            ahead = int(((values > base) if upward else (values < base))[known].sum())
            counted = "" if upward is None else f": {ahead} of {int(known.sum())}"
            style = {"color": styles[variant.name].line["color"], "marker": styles[variant.name].marker}
            style |= {"linestyle": "none", "markersize": 5, "alpha": 0.75, "markeredgewidth": 0}
            axes.plot(base[known], values[known], label=plain_name(variant.name) + counted, **style)
        ends = min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])
        if upward is not None:
            axes.fill_between(ends, ends, ends[1] if upward else ends[0], color=BETTER, alpha=0.10, lw=0)
        axes.plot(ends, ends, color=INK, linewidth=0.8)
        plain(axes, column(metric).title)
        axes.set(xlim=ends, ylim=ends, aspect="equal")
        axes.set_xlabel(plain_name(comparison.baseline.name), color=INK, fontsize=9)
        axes.locator_params(nbins=5)
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "handletextpad": 0.1}
        title = "" if upward is None else "better on"
        legend = axes.legend(frameon=False, fontsize=8, labelcolor=INK, labelspacing=0.3, title=title, **place)
        legend.get_title().set(fontsize=8, color=INK)
    return figure


def plain_name(name: str) -> str:
    """A name that matplotlib takes neither for mathematics nor, with an underscore first, for one to leave out."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def looks(comparison: Comparison) -> dict[str, Look]:
    """How each variant is drawn, the same in every figure; no two alike while there are at most 24."""
    return {
        variant.name: Look(
            {"color": COLOURS[index % len(COLOURS)], "linestyle": _LINES[index // len(COLOURS) % len(_LINES)]},
            _MARKERS[index // len(COLOURS) % len(_MARKERS)],
        )
        for index, variant in enumerate(comparison.variants)
    }
