"""comparison.html: the whole comparison in one file that loads nothing from anywhere."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape

from matplotlib.figure import Figure
from PIL import Image

from ouroboros3d.comparison.figures import to_svg
from ouroboros3d.comparison.labels import grouped, interval
from ouroboros3d.comparison.outcome import Comparison
from ouroboros3d.comparison.runs import how_to_test
from ouroboros3d.comparison.tables import MARKS, caption, explanation, probabilities, protocols, relative, warnings
from ouroboros3d.html_page import document
from ouroboros3d.metrics.columns import column, headline

_STYLE = """
:root { --paper: #fbfbfa; --card: #ffffff; --ink: #1d2126; --pale: #68707a; --line: #dfe2e6; --accent: #0b6bcb;
  --better: #0a7d4f; --better-paper: #e3f4ec; --worse: #b8430f; --worse-paper: #fbe9e1; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --card: #1c2026; --ink: #e6e8eb; --pale: #9aa3ad;
  --line: #323840; --accent: #6cb2ff; --better: #5fd3a0; --better-paper: #17342a; --worse: #f4a07c;
  --worse-paper: #3b231a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 44px 0 12px; }
h3 { font-size: 15px; margin: 26px 0 8px; }
p { margin: 0 0 12px; max-width: 104ch; }
.lead, .pale, figcaption { color: var(--pale); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px;
  overflow-x: auto; margin: 0 0 14px; }
.warning { color: var(--worse); font-weight: 600; font-size: 13px; }
.notes { border-left: 4px solid #d69e00; }
.notes ul { margin: 0; padding-left: 18px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: 7px 12px; text-align: right; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
tr:last-child > * { border-bottom: 0; }
thead th { font-weight: 600; font-size: 13px; color: var(--pale); vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
tbody th { font-weight: 600; }
.mean.best { font-weight: 700; }
.best::after { content: " \\2605"; color: var(--accent); font-size: 11px; vertical-align: 2px; }
.difference { display: block; font-size: 12.5px; color: var(--pale); }
.difference b { font-weight: 600; padding: 0 4px; border-radius: 4px; }
.better b { color: var(--better); background: var(--better-paper); }
.worse b { color: var(--worse); background: var(--worse-paper); }
.protocol td, .protocol th { text-align: left; white-space: normal; overflow-wrap: anywhere; font-size: 13px; }
.protocol th { font-weight: 500; color: var(--pale); white-space: nowrap; }
figure { margin: 0; } figcaption { font-size: 13px; margin-top: 8px; }
figure svg { width: 100%; height: auto; display: block; margin: 0 auto; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif !important; }
.strips { display: flex; gap: 14px; align-items: flex-start; }
.strips img { min-width: 0; width: 100%; height: auto; border-radius: 6px; border: 1px solid var(--line); }
@media (max-width: 760px) { .strips { display: block; } .strips img { margin-bottom: 10px; } }
details { margin: 8px 0; } summary { cursor: pointer; font-weight: 600; padding: 4px 0; }
pre { margin: 0; font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
"""


def page(
    comparison: Comparison, figures: Mapping[str, Figure], strips: Mapping[str, Mapping[str, Image.Image]], left: int
) -> str:
    """The whole page.

    Args:
        comparison: what is shown.
        figures: by what they show.
        strips: pictures by uid and kind.
        left: how many objects have no picture here because there are too many.
    """
    names = ", ".join(variant.name for variant in comparison.variants)
    metrics = headline(comparison.metrics)
    half = -(-len(metrics) // 2)
    others = [variant.name for variant in comparison.variants[1:]]
    against = " and ".join(others) if len(others) < 3 else f"{len(others)} variants"
    parts = [
        f"<h1>{escape(against)} against {escape(comparison.baseline.name)}</h1>",
        f'<p class="lead">{escape(names)}.<br>{escape(caption(comparison))}.</p>',
        *(_card(_headline(comparison, part)) for part in (metrics[:half], metrics[half:]) if part),
        f'<p class="pale">★ best mean. {escape(explanation(comparison))}</p>',
    ]
    if comparison.notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in comparison.notes)
        parts.append(f'<div class="card notes"><ul>{items}</ul></div>')
    parts.append("<h2>Figures</h2>")
    for shown, figure in figures.items():
        parts.append(_card(f"<figure>{to_svg(figure)}<figcaption>{escape(shown)}</figcaption></figure>"))
    parts += _pictures(comparison, strips, left)
    parts.append("<h2>All metrics</h2>")
    for name, members in grouped(comparison.metrics).items():
        parts += [f"<h3>{escape(name)}</h3>", _card(_complete(comparison, members))]
    parts += ["<h2>Protocol</h2>", *_protocol(comparison), "<h2>Commands</h2>"]
    tests = [how_to_test(run.folder, comparison.split) for v in comparison.variants for run in v.runs.values()]
    commands = "\n".join([f"# this comparison\n{comparison.command}\n\n# its runs, tested by", *tests])
    parts.append(_card(f"<pre>{escape(commands)}</pre>"))
    title = f"Comparison of {names}"
    return document(title, _STYLE, parts)


def _card(content: str) -> str:
    return f'<div class="card">{content}</div>'


def _warnings(comparison: Comparison) -> str:
    """Above a table."""
    return "".join(f'<p class="warning">{escape(warning)}</p>' for warning in warnings(comparison))


def _headline(comparison: Comparison, metrics: Sequence[str]) -> str:
    """A row a variant, a column a metric."""
    heads = "".join(f"<th>{escape(column(metric).title).replace(' (', '<br>(')}</th>" for metric in metrics)
    rows = []
    for variant in comparison.variants:
        cells = "".join(_cell(comparison, variant.name, metric) for metric in metrics)
        rows.append(f"<tr><th>{escape(variant.name)}</th>{cells}</tr>")
    body = f"<tbody>{''.join(rows)}</tbody>"
    return f"{_warnings(comparison)}<table><thead><tr><th></th>{heads}</tr></thead>{body}</table>"


def _complete(comparison: Comparison, metrics: Sequence[str]) -> str:
    """The table of everything: a row for each metric, a column for each variant."""
    heads = "".join(f"<th>{escape(variant.name)}</th>" for variant in comparison.variants)
    rows = []
    for metric in metrics:
        cells = "".join(_cell(comparison, variant.name, metric, complete=True) for variant in comparison.variants)
        rows.append(f"<tr><th>{escape(column(metric).title)}</th>{cells}</tr>")
    body = f"<tbody>{''.join(rows)}</tbody>"
    return f"{_warnings(comparison)}<table><thead><tr><th></th>{heads}</tr></thead>{body}</table>"


def _cell(comparison: Comparison, variant: str, metric: str, complete: bool = False) -> str:
    cell = comparison.cells[variant, metric]
    best = " best" if variant in comparison.best(metric) else ""
    text = f'<span class="mean{best}">{column(metric).text(cell.mean)}</span>'
    difference = cell.difference
    if difference is not None and not math.isnan(difference.mean):
        more = relative(comparison, variant, metric) if complete else ""
        moved = column(metric).text(difference.mean, True) + more + MARKS[difference.verdict]
        text += f'<span class="difference {difference.verdict}"><b>{moved}</b></span>'
        text += f'<span class="difference">{interval(metric, difference.low, difference.high)}</span>'
        if complete:
            p = probabilities(difference)
            pairs = f"{difference.pairs} pair{'' if difference.pairs == 1 else 's'}"
            text += f'<span class="difference">{escape(f"{p}, " if p else "")}{pairs}</span>'
    return f"<td>{text}</td>"


def _pictures(comparison: Comparison, strips: Mapping[str, Mapping[str, Image.Image]], left: int) -> list[str]:
    if not strips:
        return []
    parts = [
        "<h2>Objects</h2>",
        '<p class="pale">Left: generated views, the first is the input view. Right: renders of the reconstruction, '
        "novel cameras last. Below a name: this object's foreground PSNR of generated views (left) and at novel "
        f"cameras (right). {f'{left} more objects are left out here.' if left else ''}</p>",
    ]
    for index, (uid, pictures) in enumerate(strips.items()):
        images = "".join(
            # Shares of the width as their own widths, so that views are equally large in both.
            f'<img alt="{escape(kind)} of {escape(uid)}" src="{_data(picture)}" '
            f'style="flex: {picture.width} 1 0; max-width: {picture.width}px">'
            for kind, picture in pictures.items()
        )
        is_open = " open" if index < 2 else ""
        title = escape(comparison.title(uid))
        parts.append(f'<details{is_open}><summary>{title}</summary><div class="strips">{images}</div></details>')
    return parts


def _data(picture: Image.Image) -> str:
    """A picture as a data URL; WebP because a strip is far smaller than as PNG."""
    content = io.BytesIO()
    picture.save(content, format="WEBP", quality=92, method=4)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def _protocol(comparison: Comparison) -> list[str]:
    shared, differing = protocols(comparison)
    heads = "".join(f"<th>{escape(variant.name)}</th>" for variant in comparison.variants)
    rows = "".join(
        f"<tr><th>{escape(field)}</th>{''.join(f'<td>{escape(value)}</td>' for value in values)}</tr>"
        for field, values in differing.items()
    )
    same = "".join(f"<tr><th>{escape(field)}</th><td>{escape(value)}</td></tr>" for field, value in shared.items())
    return [
        "<h3>What the variants differ in</h3>",
        _card(f'<table class="protocol"><thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table>'),
        "<details><summary>What they share</summary>"
        + _card(f'<table class="protocol"><tbody>{same}</tbody></table>')
        + "</details>",
    ]
