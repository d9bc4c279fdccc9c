"""comparison.html: the whole comparison in one file that loads nothing from anywhere."""

import base64
import io
import math
from collections.abc import Collection, Mapping
from typing import Any

from markupsafe import Markup
from PIL import Image

from ouroboros3d.comparison.labels import grouped, interval
from ouroboros3d.comparison.outcome import Comparison
from ouroboros3d.comparison.runs import how_to_test
from ouroboros3d.comparison.tables import (
    MARKS,
    caption,
    explanation,
    probabilities,
    protocols,
    relative,
    warnings,
)
from ouroboros3d.comparison.viewers import viewer_link
from ouroboros3d.metrics.columns import column, headline
from ouroboros3d.reports import templates


def page(
    comparison: Comparison,
    figures: Mapping[str, Markup],
    strips: Mapping[str, Mapping[str, Image.Image]],
    left: int,
    viewers: Collection[str] = (),
) -> str:
    """The whole page.

    Args:
        comparison: what is shown.
        figures: SVG elements by what they show.
        strips: pictures by uid and kind.
        left: how many objects have no picture here because there are too many.
        viewers: uids of the objects that have a page in viewers/, to which theirs here links.
    """
    names = [variant.name for variant in comparison.variants]
    shown = [column(metric) for metric in headline(comparison.metrics)]
    half = -(-len(shown) // 2)
    shared, differing = protocols(comparison)
    return templates.page(
        "comparison.html",
        title=f"Comparison of {', '.join(names)}",
        against=" and ".join(names[1:]) if len(names) < 4 else f"{len(names) - 1} variants",
        baseline=comparison.baseline.name,
        names=names,
        caption=caption(comparison),
        explanation=explanation(comparison),
        warnings=warnings(comparison),
        notes=comparison.notes,
        headline=[part for part in (shown[:half], shown[half:]) if part],
        groups={name: list(map(column, members)) for name, members in grouped(comparison.metrics).items()},
        cells={key: _cell(comparison, *key) for key in comparison.cells},
        figures=figures,
        strips={
            uid: [{"kind": kind, "data": _data(picture), "width": picture.width} for kind, picture in pictures.items()]
            for uid, pictures in strips.items()
        },
        titles={uid: comparison.title(uid) for uid in strips},
        viewers={uid: viewer_link(uid) for uid in viewers},
        left=left,
        shared=shared,
        differing=differing,
        command=comparison.command,
        tests=[how_to_test(run.folder, comparison.split) for v in comparison.variants for run in v.runs.values()],
    )


def _cell(comparison: Comparison, variant: str, metric: str) -> dict[str, Any]:
    """The words of one variant and metric."""
    cell = comparison.cells[variant, metric]
    words = {"mean": column(metric).text(cell.mean), "best": variant in comparison.best(metric), "moved": ""}
    if (difference := cell.difference) is None or math.isnan(difference.mean):
        return words
    return words | {
        "moved": column(metric).text(difference.mean, True),
        "relative": relative(comparison, variant, metric),
        "mark": MARKS[difference.verdict],
        "verdict": difference.verdict,
        "interval": interval(metric, difference.low, difference.high),
        "p": probabilities(difference),
        "pairs": f"{difference.pairs} pair{'' if difference.pairs == 1 else 's'}",
    }


def _data(picture: Image.Image) -> str:
    """A picture as a data URL; WebP because a strip is far smaller than as PNG."""
    content = io.BytesIO()
    picture.save(content, format="WEBP", quality=92, method=4)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
