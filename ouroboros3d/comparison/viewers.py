"""A page for each object that turns all variants of it at once, from the pages that their tests left."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from ouroboros3d.comparison.outcome import Comparison
from ouroboros3d.viewer.page import save_viewer
from ouroboros3d.viewer.scene import Scene, read_scenes

_FOLDER = "viewers"


def viewer_link(uid: str) -> str:
    """The address of an object's page, from comparison.html."""
    return quote(f"{_FOLDER}/{uid}.html")


def write_viewers(comparison: Comparison, uids: Sequence[str], folder: Path) -> list[str]:
    """Write `viewers/UID.html` of the objects that a variant's first seed has a page of: their uids.

    Args:
        comparison: whose variants are shown, side by side.
        uids: of the objects.
        folder: of the comparison.

    Raises:
        ValueError: a damaged page.
    """
    shown = {uid: scenes for uid in uids if (scenes := _scenes(comparison, uid))}
    names = list(shown)
    if names:
        (folder / _FOLDER).mkdir()
    for index, (uid, scenes) in enumerate(shown.items()):
        links = {"comparison": "../comparison.html"}
        if index:
            links["previous object"] = quote(f"{names[index - 1]}.html")
        if index + 1 < len(names):
            links["next object"] = quote(f"{names[index + 1]}.html")
        save_viewer(folder / _FOLDER / f"{uid}.html", comparison.title(uid), scenes, links)
    return names


def _scenes(comparison: Comparison, uid: str) -> list[Scene]:
    """What the variants made of an object; none of those that failed, or were tested before there were such pages."""
    scenes = []
    for variant in comparison.variants:
        path = variant.first.pictures(uid) / "viewer.html"
        if uid not in variant.first.failures and path.is_file():
            scenes.append({**read_scenes(path)[0], "name": variant.name})
    return scenes
