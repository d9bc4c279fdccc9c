"""A run's Gaussians as a cloud of points that says whose it is."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ouroboros3d.gaussians import load_ply

# A viewer of points knows no transparency: what is nearly invisible in a render would hide the object.
_MIN_OPACITY = 0.1
_MOST = 20_000  # the browser holds all clouds of a page at once
_INK = 120  # grey, readable on white and on black
SCENE = {
    "camera": {"cls": "PerspectiveCamera", "fov": 40},
    "material": {"cls": "PointsMaterial", "size": 0.035},
}


def cloud(path: Path, caption: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres [1, N, 3] and colours [1, N, 3] (uint8) of a ply's most opaque Gaussians, and of a caption below them.

    Args:
        path: of the ply.
        caption: lines of text, written in points because the viewer shows no names.

    Raises:
        ValueError: no such ply.
    """
    gaussians = load_ply(path)
    opacities = gaussians.opacities[0, :, 0]
    kept = opacities.argsort(descending=True)[: min(_MOST, int((opacities >= _MIN_OPACITY).sum()))]
    text = torch.from_numpy(_written(caption))
    colours = (gaussians.colours[0, kept].clamp(0, 1) * 255).round().to(torch.uint8)
    return (
        torch.cat([gaussians.means[0, kept], text])[None],
        torch.cat([colours, torch.full(text.shape, _INK, dtype=torch.uint8)])[None],
    )


def _written(caption: str) -> NDArray[np.float32]:
    """Points [N, 3] of the letters, upright, facing the viewer, under an object of the unit ball's half size."""
    font = ImageFont.load_default(12)
    _, _, width, height = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), caption, font)
    picture = Image.new("L", (int(width) + 1, int(height) + 1))
    ImageDraw.Draw(picture).multiline_text((0, 0), caption, 255, font, align="center")
    rows, columns = np.nonzero(np.asarray(picture) > 100)
    step = min(0.009, 1.2 / width)
    points = [(columns - width / 2) * step, -0.68 - rows * step, np.zeros(len(rows))]
    return np.stack(points, axis=-1).astype(np.float32)
