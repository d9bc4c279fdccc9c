"""Pictures that show whether cameras are right: axes, the unit box and the hull's outline on the images."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.inspection.camera_checks.silhouette_fit import ViewSet

TILE = 168
_COLUMNS = 8
_AXES = {"X": (220, 40, 40), "Y": (20, 150, 60), "Z": (40, 90, 230)}
_BOX, _HULL, _MISSED, _COVERED = (120, 120, 130), (225, 0, 160), (235, 70, 20), (120, 175, 225)
_CORNERS = torch.tensor([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
_EDGES = [(a, b) for a in range(8) for b in range(a) if (_CORNERS[a] != _CORNERS[b]).sum() == 1]


def shown_views(count: int, first: Sequence[int]) -> list[int]:
    """Up to eight views of `count`: those named first, then evenly spread ones; in the order of the list."""
    spread = [int(view) for view in np.linspace(0, count - 1, min(count, _COLUMNS)).round()]
    chosen = list(dict.fromkeys([*first, *spread]))[: min(count, _COLUMNS)]
    return sorted(chosen)


def overlay(rgba: Tensor, cameras: Cameras, views: Sequence[int], hull: Tensor | None, marked: Sequence[int]) -> str:
    """A strip of views with what the cameras say drawn on them, as a data URL.

    Args:
        rgba: [K, H, W, 4] uint8, the views' images.
        cameras: [K] theirs.
        views: K numbers of views.
        hull: [K, h, w] bool, where they see the hull of all views; None to draw none.
        marked: views to frame.
    """
    tiles = []
    for place, (image, view) in enumerate(zip(rgba, views, strict=True)):
        tile = _paper(image)
        draw = ImageDraw.Draw(tile)
        if hull is not None:
            _outline(tile, hull[place])
        _scene(draw, cameras[place], tile.size)
        _label(draw, view, view in marked, tile.size)
        tiles.append(tile)
    return _strip(tiles)


def coverage(one: ViewSet, views: Sequence[int], marked: Sequence[int]) -> str:
    """A strip of masks as a data URL: blue where the hull covers them, orange where it does not.

    Args:
        one: the object.
        views: numbers of views, of those that were tested.
        marked: views to frame.
    """
    tiles = []
    for view in views:
        place = one.numbers.index(view)
        solid, core = one.masks.solid[place].numpy(), one.masks.core[place].numpy()
        pixels = np.full((*solid.shape, 3), 255, np.uint8)
        pixels[solid], pixels[core & ~one.hull.images[place].numpy()] = _COVERED, _MISSED
        height, width = solid.shape
        scale = TILE / max(height, width)
        tile = Image.fromarray(pixels).resize((round(width * scale), round(height * scale)), Image.Resampling.NEAREST)
        draw = ImageDraw.Draw(tile)
        text = f"{one.hull.coverage[place].item():.0%}"
        draw.text((tile.width - 5, 4), text, (90, 90, 90), ImageFont.load_default(12), anchor="ra")
        _label(draw, view, view in marked, tile.size)
        tiles.append(tile)
    return _strip(tiles)


def _paper(rgba: Tensor) -> Image.Image:
    image = Image.fromarray(rgba.numpy())
    scale = TILE / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
    # Paled, so that lines stand out.
    return Image.blend(Image.alpha_composite(paper, image).convert("RGB"), Image.new("RGB", image.size, "white"), 0.25)


def _scene(draw: ImageDraw.ImageDraw, camera: Cameras, size: tuple[int, int]) -> None:
    points = torch.cat([_CORNERS, torch.zeros(1, 3), 0.55 * torch.eye(3)])
    uv, depth = camera.project(points)
    if bool((depth <= 1e-6).all()):
        font = ImageFont.load_default(14)
        draw.text((size[0] / 2, size[1] / 2), "behind the camera", (200, 30, 30), font, anchor="mm", stroke_width=3,
                  stroke_fill="white")  # fmt: skip
        return
    place = [(u * size[0], v * size[1]) for u, v in uv.tolist()]
    seen = (depth > 1e-6).tolist()
    for a, b in _EDGES:
        if seen[a] and seen[b]:
            draw.line([place[a], place[b]], _BOX, 1)
    for number, (name, colour) in enumerate(_AXES.items()):
        if seen[8] and seen[9 + number]:
            draw.line([place[8], place[9 + number]], colour, 3)
            end = tuple(min(max(x, 8), side - 8) for x, side in zip(place[9 + number], size, strict=True))
            font = ImageFont.load_default(15)
            draw.text(end, name, colour, font, anchor="mm", stroke_width=3, stroke_fill="white")


def _outline(tile: Image.Image, hull: Tensor) -> None:
    grown = Image.fromarray(hull.numpy().astype(np.uint8) * 255).resize(tile.size, Image.Resampling.NEAREST)
    inside = np.pad(np.asarray(grown) > 0, 1)
    core = inside[1:-1, 1:-1]
    edge = core & ~(inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:])
    tile.paste(_HULL, mask=Image.fromarray(edge.astype(np.uint8) * 255))


def _label(draw: ImageDraw.ImageDraw, view: int, marked: bool, size: tuple[int, int]) -> None:
    colour = (220, 30, 30) if marked else (70, 75, 80)
    draw.text((5, 4), str(view), colour, ImageFont.load_default(13), stroke_width=2, stroke_fill="white")
    if marked:
        draw.rectangle((0, 0, size[0] - 1, size[1] - 1), outline=colour, width=3)


def _strip(tiles: Sequence[Image.Image]) -> str:
    gap = 4
    width, height = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    strip = Image.new("RGB", (len(tiles) * (width + gap) - gap, height), (222, 225, 229))
    for column, tile in enumerate(tiles):
        strip.paste(tile, (column * (width + gap), 0))
    content = io.BytesIO()
    strip.save(content, format="WEBP", quality=88, method=4)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
