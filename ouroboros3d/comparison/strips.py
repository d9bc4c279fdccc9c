"""Image strips of one object: input, every variant and ground truth below each other, with captions in the picture."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from ouroboros3d.comparison.outcome import Comparison
from ouroboros3d.comparison.runs import Run
from ouroboros3d.metrics.columns import column

_TILE = 96  # pixels of a view in a strip, about
_GAP = 2
_HEAD = 22
_PAPER, _INK, _PALE = "white", "#222222", "#777777"
_METRIC = {"views": "mv_psnr_foreground", "renders": "novel_psnr_foreground"}


def strip(comparison: Comparison, uid: str, kind: str) -> Image.Image | None:
    """One object's strip; None where no run has pictures of it.

    Args:
        comparison: whose variants are shown, each by its first seed.
        uid: of the object.
        kind: `views` (generated) or `renders` (of the reconstruction, novel cameras too).

    Raises:
        ValueError: a picture is damaged or not a row of square views.
    """
    generated = {v.name: views_of(v.first, uid, f"{kind}.png") for v in comparison.variants}
    truth = next(filter(None, (views_of(v.first, uid, "truth.png") for v in comparison.variants)), [])
    count = max((len(views) for views in generated.values()), default=0)
    if not count:
        return None
    rows = [("input", "", truth[:1])]
    for variant in comparison.variants:
        value = _decibels(comparison, variant.name, uid, _METRIC[kind])
        rows.append((variant.name, value if generated[variant.name] else "no pictures", generated[variant.name]))
    rows.append(("ground truth", "", truth[:count]))
    given = len(views_of(comparison.baseline.first, uid, "views.png")) or count
    heads = [f"view {index + 1}" if index < given else f"novel {index - given + 1}" for index in range(count)]
    return _sheet(rows, heads, comparison.title(uid))


def _decibels(comparison: Comparison, variant: str, uid: str, metric: str) -> str:
    """An object's value of the variant's first seed, as its pictures are."""
    if metric not in comparison.metrics:
        return ""
    indices = comparison.uids.index(uid), list(comparison.metrics).index(metric)
    return f"{column(metric).text(comparison.values[variant][0][indices])} dB"


def views_of(run: Run, uid: str, name: str) -> list[Image.Image]:
    """The views of an object's picture of views side by side; none where the run has no such picture.

    Args:
        run: that has the picture.
        uid: of the object.
        name: of the picture, such as truth.png.

    Raises:
        ValueError: it is damaged, or not a row of square views.
    """
    path = run.pictures(uid) / name
    if uid in run.failures or not path.is_file():
        return []
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # all of them Pillow's
        raise ValueError(f"{path}: expected a picture, got a damaged file ({error}); test the run again.") from error
    size = picture.height
    if picture.width % size:
        raise ValueError(
            f"{path}: expected square views side by side, got {picture.width} x {size} pixels; test the run again."
        )
    return [picture.crop((left, 0, left + size, size)) for left in range(0, picture.width, size)]


def _sheet(rows: Sequence[tuple[str, str, list[Image.Image]]], heads: Sequence[str], title: str) -> Image.Image:
    font, small = ImageFont.load_default(16), ImageFont.load_default(13)
    size = rows[-1][2][0].height if rows[-1][2] else rows[1][2][0].height if rows[1][2] else _TILE
    # Whole multiples show the pixels that there are; larger views are made smaller.
    tile = size * max(1, round(_TILE / size)) if size <= _TILE else _TILE
    names = max(max(font.getlength(name), small.getlength(more)) for name, more, _ in rows)
    left = int(max(names, 60)) + 16
    width = left + len(heads) * (tile + _GAP)
    sheet = Image.new("RGB", (width, _HEAD + len(rows) * (tile + _GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, head in enumerate(heads):
        draw.text((left + place * (tile + _GAP) + tile / 2, _HEAD / 2), head, _PALE, small, anchor="mm")
    for row, (name, more, views) in enumerate(rows):
        top = _HEAD + row * (tile + _GAP)
        middle = top + tile / 2
        draw.text((8, middle - (9 if more else 0)), name, _INK, font, anchor="lm")
        draw.text((8, middle + 11), more, _PALE, small, anchor="lm")
        for place, view in enumerate(views):
            filter_ = Image.Resampling.NEAREST if tile >= view.height else Image.Resampling.LANCZOS
            sheet.paste(view.resize((tile, tile), filter_), (left + place * (tile + _GAP), top))
    draw.text((left + tile + 12, _HEAD + tile / 2), title, _PALE, small, anchor="lm")
    return sheet
