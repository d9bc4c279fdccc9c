"""report.html: the whole check in one file that loads nothing from anywhere, the worst first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ouroboros3d.inspection.findings.finding import Finding, conclusion
from ouroboros3d.reports import templates
from ouroboros3d.reports.plots import INK, plain, to_svg

_BAR = "#4f8ac9"


@dataclass(frozen=True)
class Pictured:
    """An object on the page.

    Args:
        uid: the object.
        caption: what is said of it.
        wrong: whether that is bad.
        strips: pictures as data URLs, by their captions.
    """

    uid: str
    caption: str
    wrong: bool
    strips: Mapping[str, str]


def page(
    title: str,
    findings: Sequence[Finding],
    facts: Mapping[str, str],
    plots: Mapping[str, Figure],
    objects: Sequence[Pictured] = (),
) -> str:
    """The whole page.

    Args:
        title: what was checked.
        findings: the worst first.
        facts: counts and ranges.
        plots: by their captions.
        objects: pictures, the worst first.
    """
    return templates.page(
        "check_data.html",
        title=title,
        bad=any(finding.severity == "error" for finding in findings),
        conclusion=conclusion(findings),
        findings=findings,
        facts=facts,
        plots={caption: to_svg(figure) for caption, figure in plots.items()},
        objects=objects,
    )


def histogram(values: Sequence[float], unit: str = "") -> Figure:
    """Bars over the range of some values.

    Args:
        values: at least one finite number.
        unit: of the axis.
    """
    low, high = min(values), max(values)
    if high - low < 1e-6 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    figure, axes = _panel()
    axes.hist(values, bins=24, range=(low, high), color=_BAR, rwidth=0.9)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xticks([low, high], [f"{low:.4g}{unit}", f"{high:.4g}{unit}"])
    return figure


def camera_map(azimuth_deg: Sequence[float], elevation_deg: Sequence[float], most: int = 3000) -> Figure:
    """Where cameras stand: elevation over azimuth.

    Args:
        azimuth_deg: of each camera, 0 to 360.
        elevation_deg: of each camera, -90 to 90.
        most: cameras to draw, evenly chosen.
    """
    step = max(1, math.ceil(len(azimuth_deg) / most))
    figure, axes = _panel()
    axes.plot(azimuth_deg[::step], elevation_deg[::step], "o", color=_BAR, markersize=3, alpha=0.5, markeredgewidth=0)
    axes.axhline(0, color=INK, linewidth=0.5, alpha=0.4)
    axes.set(xlim=(0, 360), ylim=(-90, 90))
    axes.set_xticks([0, 360], ["0°", "azimuth 360°"])
    axes.set_yticks([-90, 0, 90], ["-90°", "0°", "+90°"])
    return figure


def _panel() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(2.9, 1.25), layout="constrained")
    axes = figure.subplots()
    plain(axes)
    return figure, axes
