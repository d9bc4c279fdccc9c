"""The look of plots, and plots as parts of a page or as pictures."""

import io
import re

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

INK = "#3a3b3c"
"""Of text and axes; a page turns it into its own text colour."""


def plain(axes: Axes, title: str = "") -> None:
    """The look of all panels."""
    axes.set_title(title, fontsize=9.5, color=INK)
    axes.tick_params(colors=INK, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
        spine.set_linewidth(0.8)


def to_image(figure: Figure) -> Image.Image:
    """A figure drawn on white."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110, facecolor="white", bbox_inches="tight")
    return Image.open(content).convert("RGB")


def to_svg(figure: Figure) -> Markup:
    """A figure as an SVG element without background, whose text and axes take the colour of the text around it."""
    text = io.StringIO()
    # Text stays text; ids that do not change let two pages of the same numbers be equal.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ouroboros3d"}):
        figure.savefig(text, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # As wide as its place, and no wider than drawn: 4 pixels are 3 points.
    pixels = float(re.search(r'width="([\d.]+)pt"', svg)[1]) * 4 / 3  # type: ignore[index] # matplotlib's own output
    svg = re.sub(r'(width|height)="[\d.]+pt" ', "", svg, count=2)
    svg = svg.replace("<svg ", f'<svg style="max-width: {pixels:.0f}px" role="img" ', 1).replace(INK, "currentColor")
    return Markup(svg)  # matplotlib escapes the names in it
