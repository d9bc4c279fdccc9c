"""The shell of our HTML pages: one file each, which loads nothing from anywhere."""

from collections.abc import Sequence
from html import escape


def document(title: str, style: str, parts: Sequence[str]) -> str:
    """A whole page.

    Args:
        title: plain text.
        style: CSS.
        parts: HTML elements of the body.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # The browser itself holds the page to loading nothing.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        f"'unsafe-inline'\"><title>{escape(title)}</title><style>{style}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )
