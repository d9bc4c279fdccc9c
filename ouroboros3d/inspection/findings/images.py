"""What is wrong with the images of a tree: unreadable, opaque, empty, cut off, mixed with a background, or copies."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from ouroboros3d.datamodules.readers.errors import MirroredPoses, SampleError, TransposedPoses, WrongFieldOfView
from ouroboros3d.inspection.findings.finding import (
    EXAMPLES,
    Finding,
    binomial_tail,
    count_text,
    is_minority,
    view_names,
)
from ouroboros3d.inspection.images import Images

# What readers refuse, with title, detail and advice.
_READING: dict[type[SampleError], tuple[str, str, str]] = {
    MirroredPoses: (
        "Poses mirror: an axis is flipped",
        "Rotations have determinant -1, as where one axis was negated.",
        "Negate two axes or none: OpenGL to OpenCV negates y and z, a Z-up world is turned into a Y-up one.",
    ),
    TransposedPoses: (
        "Poses are stored transposed",
        "The translation is in the last row of the 4x4 matrices, not in the last column.",
        "Transpose the matrices: column vectors, last row 0 0 0 1.",
    ),
    WrongFieldOfView: (
        "Fields of view are no angles in radians",
        "They lie outside of 1 to 179 degrees, as degrees do that are read as radians.",
        "Store radians.",
    ),
}
# Single objects may be so dark, or so white, by themselves: 10 of 511 objects of furniture are.
_PALE = 0.02


def image_findings(images: Sequence[Images]) -> Iterable[Finding]:
    """What is wrong with the images of all objects, and with what could not be read."""
    total = len(images)
    groups: dict[tuple[str, str, str], list[Images]] = defaultdict(list)
    for one in images:
        if one.error:
            groups[_kind(one)].append(one)
    for (title, detail, advice), members in groups.items():
        examples = tuple(str(one.error) for one in members[:EXAMPLES])
        yield Finding(
            "error", title, count_text(len(members), total), detail, advice, examples, is_minority(len(members), total)
        )
    if broken := [one for one in images if one.unreadable]:
        count = sum(len(one.unreadable) for one in broken)
        yield Finding(
            "error",
            "Missing or unreadable views",
            f"{count} view{'s' * (count > 1)} of {count_text(len(broken), total)}",
            "Files are missing, damaged or of another size.",
            "Render or download them again, or leave the objects out (skip_uids.txt).",
            tuple(text for one in broken for text in one.unreadable.values())[:EXAMPLES],
            is_minority(len(broken), total),
        )
    if opaque := [one for one in images if one.opaque]:
        papers = Counter(one.paper for one in opaque)
        paper = papers.most_common(1)[0][0]
        yield Finding(
            "error",
            f"{'A background' if paper == 'a background' else f'A {paper} background'} is baked in",
            count_text(len(opaque), total),
            "Alpha is opaque everywhere: the object cannot be cut out, composited or tested against its cameras.",
            "Render with a transparent film (Blender: Render > Film > Transparent) and save RGBA.",
            _named(opaque, "opaque"),
            is_minority(len(opaque), total),
        )
    mixed = [one for one in images if one.mixed]
    cut_out = sum(not one.opaque and not one.error for one in images)
    if not is_minority(len(mixed), cut_out) and binomial_tail(len(mixed), cut_out, _PALE) < 0.01:
        colour = Counter(one.mixed for one in mixed).most_common(1)[0][0]
        yield Finding(
            "error",
            f"A {colour} background is mixed into the edges",
            count_text(len(mixed), total),
            f"Half-transparent pixels hold colours already blended with {colour}"
            f"{' (premultiplied alpha)' if colour == 'black' else ''}: on other backgrounds every edge gets a rim.",
            "Save straight alpha: divide the colours by alpha before writing.",
            tuple(one.uid for one in mixed[:EXAMPLES]),
        )
    if empty := [one for one in images if one.empty]:
        everything = all(len(one.empty) == one.views for one in empty)
        yield Finding(
            "error" if any(len(one.empty) > 1 for one in empty) else "warning",
            "Empty objects" if everything else "Empty views",
            f"{sum(len(one.empty) for one in empty)} views of {count_text(len(empty), total)}",
            "Nothing is seen: the object is elsewhere, too small, or a sheet seen edge-on.",
            "Look at them; leave the objects out (skip_uids.txt) if rendering failed.",
            _named(empty, "empty"),
            is_minority(len(empty), total),
        )
    if clipped := [one for one in images if one.clipped]:
        yield Finding(
            "warning",
            "The image border cuts the object",
            f"{sum(len(one.clipped) for one in clipped)} views of {count_text(len(clipped), total)}",
            "Pixels of the object touch the border, so that a part of it is outside of the image.",
            "Move the camera back, or normalise the object to a smaller sphere.",
            _named(clipped, "clipped"),
        )
    yield from _duplicates(images)


def _duplicates(images: Sequence[Images]) -> Iterable[Finding]:
    same: dict[str, list[str]] = defaultdict(list)
    for one in images:
        if one.usable and len(one.empty) < one.views:
            same[one.digest].append(one.uid)
    twice = [uids for uids in same.values() if len(uids) > 1]
    if twice:
        extra = sum(len(uids) - 1 for uids in twice)
        yield Finding(
            "warning",
            "Duplicate objects",
            f"{extra} of {len(images)} objects",
            "The same pixels under several uids: a copy in the test split makes its numbers worthless.",
            "Leave the copies out (skip_uids.txt keeps the first of each).",
            tuple(" = ".join(uids[:4]) for uids in twice[:EXAMPLES]),
        )


def _kind(one: Images) -> tuple[str, str, str]:
    """Title, detail and advice for an object that cannot be read; equal for objects with the same mistake."""
    assert one.error is not None
    if said := _READING.get(type(one.error)):
        return said
    text = str(one.error).replace(f"{one.uid}: ", "", 1)
    general = re.sub(r"\S*/\S*", "...", re.sub(r"view \d+ of", "a view of", text))
    return "Objects cannot be read", general, "Complete the objects, or leave them out (skip_uids.txt)."


def _named(images: Sequence[Images], kind: str) -> tuple[str, ...]:
    return tuple(f"{one.uid}: {view_names(getattr(one, kind))}" for one in images[:EXAMPLES])
