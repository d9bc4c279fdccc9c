"""report.html: the whole check in one file that loads nothing from anywhere, the worst first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from ouroboros3d.html_page import document
from ouroboros3d.inspection.findings.finding import Finding, conclusion

_STYLE = """
:root { --paper: #fbfbfa; --card: #ffffff; --ink: #1d2126; --pale: #68707a; --line: #dfe2e6; --bar: #5b8fc7;
  --error: #c0260f; --warning: #a86a00; --note: #51606e; --good: #0a7d4f; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --card: #1c2026; --ink: #e6e8eb; --pale: #9aa3ad;
  --line: #323840; --bar: #6ca6e8; --error: #ff8a73; --warning: #eeb04f; --note: #a9b6c2; --good: #5fd3a0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1440px; margin: 0 auto; padding: 32px 24px 80px; }
h1 { font-size: 25px; line-height: 1.25; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 10px; }
p { margin: 0 0 8px; max-width: 110ch; } .pale { color: var(--pale); }
h1.error { color: var(--error); } h1.good { color: var(--good); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px;
  margin: 0 0 10px; }
.finding { border-left: 5px solid var(--kind); } .finding h3 { font-size: 16px; margin: 0 0 3px; }
.finding h3 span { color: var(--kind); font-size: 12px; text-transform: uppercase; letter-spacing: .05em;
  margin-right: 8px; }
.finding h3 small { color: var(--pale); font-weight: 400; margin-left: 8px; font-size: 14px; }
.error { --kind: var(--error); } .warning { --kind: var(--warning); } .note { --kind: var(--note); }
.finding p { margin: 0 0 4px; } .finding code { font-size: 12.5px; color: var(--pale); overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(205px, 1fr)); gap: 10px; }
table { border-collapse: collapse; } td, th { padding: 3px 14px 3px 0; text-align: left; vertical-align: top; }
th { font-weight: 500; color: var(--pale); white-space: nowrap; }
figure { margin: 0; } figcaption { color: var(--pale); font-size: 13px; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--pale); font-size: 11px; font-family: inherit; } svg .bar { fill: var(--bar); }
svg line { stroke: var(--line); }
.object h3 { font-size: 15px; margin: 0 0 6px; } .object h3 b { color: var(--kind); }
.object img { display: block; max-width: 100%; border-radius: 4px; margin-bottom: 4px; }
.object p { font-size: 13px; margin: 6px 0 2px; }
.key b { font-weight: 600; }
"""


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
    plots: Sequence[str],
    objects: Sequence[Pictured] = (),
) -> str:
    """The whole page.

    Args:
        title: what was checked.
        findings: the worst first.
        facts: counts and ranges.
        plots: SVG elements with their captions.
        objects: pictures, the worst first.
    """
    bad = any(finding.severity == "error" for finding in findings)
    parts = [
        f'<h1 class="{"error" if bad else "good"}">{escape(conclusion(findings))}</h1>',
        f'<p class="pale">{escape(title)}</p>',
        *(_finding(finding) for finding in findings),
        "<h2>Numbers</h2>",
        _card(
            "<table>"
            + "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts.items())
            + "</table>"
        ),
    ]
    if plots:
        parts.append(f'<div class="grid">{"".join(_card(plot) for plot in plots)}</div>')
    if objects:
        parts.append("<h2>Objects, the worst first</h2>")
        parts.append(
            '<p class="pale key">Right cameras put the grey unit box around the object in every view: <b>Y</b> points '
            "up, <b>Z</b> to the front, <b>X</b> to the right of who looks along minus Z. Magenta: outline of the "
            "visual hull. Masks: blue is explained by the hull of all views, orange is not. Red frames: views that do "
            "not fit.</p>"
        )
        parts += [_object(shown) for shown in objects]
    return document(title, _STYLE, parts)


def histogram(values: Sequence[float], caption: str, unit: str = "") -> str:
    """Bars over the range of some values, as an SVG figure.

    Args:
        values: at least one finite number.
        caption: what they are.
        unit: of the axis.
    """
    low, high = min(values), max(values)
    if high - low < 1e-6 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(values, bins=24, range=(low, high))
    wide, tall, left = 210, 72, 2
    step = (wide - 2 * left) / len(counts)
    bars = "".join(
        f'<rect class="bar" x="{left + place * step:.1f}" y="{tall - tall * count / counts.max():.1f}" '
        f'width="{step - 1:.1f}" height="{tall * count / counts.max():.1f}"><title>{count}</title></rect>'
        for place, count in enumerate(counts)
    )
    axis = (
        f'<line x1="{left}" x2="{wide - left}" y1="{tall}" y2="{tall}"/>'
        f'<text x="{left}" y="{tall + 14}">{low:.4g}{escape(unit)}</text>'
        f'<text x="{wide - left}" y="{tall + 14}" text-anchor="end">{high:.4g}{escape(unit)}</text>'
    )
    return _figure(bars + axis, wide, tall + 18, f"{caption}, {len(values)}")


def camera_map(azimuth_deg: Sequence[float], elevation_deg: Sequence[float], most: int = 3000) -> str:
    """Where cameras stand: azimuth against elevation, as an SVG figure.

    Args:
        azimuth_deg: of each camera, 0 to 360.
        elevation_deg: of each camera, -90 to 90.
        most: cameras to draw, evenly chosen.
    """
    wide, tall = 210, 84
    lines = "".join(f'<line x1="0" x2="{wide}" y1="{y}" y2="{y}"/>' for y in (0, tall / 2, tall))
    step = max(1, math.ceil(len(azimuth_deg) / most))
    dots = "".join(
        f'<circle class="bar" cx="{azimuth / 360 * wide:.1f}" cy="{(90 - elevation) / 180 * tall:.1f}" r="1.6" '
        'fill-opacity="0.5"/>'
        for azimuth, elevation in zip(azimuth_deg[::step], elevation_deg[::step], strict=True)
    )
    labels = (
        f'<text x="2" y="11">+90°</text><text x="2" y="{tall / 2 - 3}">0°</text><text x="2" y="{tall - 3}">-90°</text>'
        f'<text x="{wide}" y="{tall + 14}" text-anchor="end">azimuth 360°</text>'
    )
    return _figure(lines + dots + labels, wide, tall + 18, "Where the cameras stand, elevation over azimuth")


def _figure(content: str, wide: float, tall: float, caption: str) -> str:
    svg = f'<svg viewBox="0 0 {wide} {tall}" role="img" aria-label="{escape(caption)}">{content}</svg>'
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _card(content: str) -> str:
    return f'<div class="card">{content}</div>'


def _finding(finding: Finding) -> str:
    examples = "".join(f"<br><code>{escape(text)}</code>" for text in finding.examples)
    advice = f"<p><b>What to do:</b> {escape(finding.advice)}</p>" if finding.advice else ""
    return (
        f'<div class="card finding {finding.severity}"><h3><span>{finding.severity}</span>{escape(finding.title)}'
        f"<small>{escape(finding.scope)}</small></h3><p>{escape(finding.detail)}{examples}</p>{advice}</div>"
    )


def _object(shown: Pictured) -> str:
    strips = "".join(
        f'<p class="pale">{escape(caption)}</p><img alt="{escape(caption)} of {escape(shown.uid)}" src="{picture}">'
        for caption, picture in shown.strips.items()
    )
    kind = "error" if shown.wrong else "note"
    return f'<div class="card object {kind}"><h3>{escape(shown.uid)} <b>{escape(shown.caption)}</b></h3>{strips}</div>'
