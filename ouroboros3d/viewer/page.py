"""The viewer's page: one file with its scenes, its program and its style."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from ouroboros3d.files import atomic_write_text
from ouroboros3d.viewer.scene import Scene, page_of_scenes, thinned

_FOLDER = Path(__file__).parent
_CONTROLS = """
<div id="steps"><button id="play" type="button">play</button>
<input id="step" type="range" min="0" step="1" aria-label="denoising step"></div><output id="label"></output>
<label><input id="cameras" type="checkbox"> cameras</label><label><input id="dark" type="checkbox"> dark</label>
<button id="reset" type="button">reset</button>
"""
_HELP = (
    "Drag to turn, wheel or pinch to zoom, shift and drag or two fingers to move. In a focused panel arrow keys turn, "
    "plus and minus zoom."
)


def viewer_page(title: str, scenes: Sequence[Scene], links: Mapping[str, str] | None = None) -> str:
    """A page with a panel for each scene under one camera, and a slider over the sampler's steps.

    Args:
        title: of the page, the object's name.
        scenes: side by side, of one object; those with too many Gaussians for a page lose steps.
        links: addresses of related pages by what they are called.
    """
    scenes = thinned(scenes)
    views = range(len(scenes[0]["cameras"]))
    buttons = "".join(
        f'<button type="button" data-view="{view}">{f"view {view + 1}" if view else "input view"}</button>'
        for view in views
    )
    related = " ".join(f'<a href="{escape(address)}">{escape(name)}</a>' for name, address in (links or {}).items())
    parts = [
        f"<header><h1>{escape(title)}</h1><nav>{related}</nav></header>",
        f'<div id="controls">{_CONTROLS}{buttons}</div>',
        '<p id="trouble" hidden>This browser draws no WebGL2; the views are below.</p>',
        '<div id="stage"><canvas id="canvas"></canvas>',
        *(_panel(number, one) for number, one in enumerate(scenes)),
        f'</div><p class="pale">{_HELP}</p>',
        page_of_scenes(scenes),
    ]
    style, script = ((_FOLDER / f"viewer.{end}").read_text(encoding="utf-8") for end in ("css", "js"))
    # The browser itself holds the page to loading nothing, and to running this one script.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + f"\n</main><script>{script}</script></body></html>\n"
    )


def save_viewer(path: Path, title: str, scenes: Sequence[Scene], links: Mapping[str, str] | None = None) -> None:
    """Write a page whole or not at all; see `viewer_page`."""
    atomic_write_text(path, viewer_page(title, scenes, links))


def _panel(number: int, one: Scene) -> str:
    name, truth, count = escape(one["name"]), one["truth"], len(one["cameras"])
    below, caption = "", "views at this step"
    if truth is not None:
        below = f'<img src="{truth["picture"]}" alt="" style="width: {100 * truth["views"] / count:.4g}%">'
        caption += ", below what they should be" if truth["views"] > 1 else ", below the input image"
    return (
        f'<figure><h2>{name}</h2><div class="panel" id="panel-{number}" tabindex="0" role="img" '
        f'aria-label="{name} in 3D"></div><div class="views"><img id="views-{number}" alt="">{below}'
        f"<figcaption>{caption}</figcaption></div></figure>"
    )
