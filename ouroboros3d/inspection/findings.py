"""What a check found, in plain words: how bad, how many, which, and what to do."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ouroboros3d.inspection.conventions import Convention, Hypothesis
from ouroboros3d.inspection.diagnosis import Diagnosis, Explanation
from ouroboros3d.inspection.fit import FITS
from ouroboros3d.inspection.images import Images
from ouroboros3d.inspection.statistics import CameraStatistics

Severity = Literal["error", "warning", "note"]
_EXAMPLES = 5
# What readers refuse, by what they say, with title, detail and advice.
_READING = {
    r"\bdet -": (
        "Poses mirror: an axis is flipped",
        "Rotations have determinant -1, as where one axis was negated.",
        "Negate two axes or none: OpenGL to OpenCV negates y and z, a Z-up world is turned into a Y-up one.",
    ),
    r"last row is 0 0 0 1": (
        "Poses are stored transposed",
        "The translation is in the last row of the 4x4 matrices, not in the last column.",
        "Transpose the matrices: column vectors, last row 0 0 0 1.",
    ),
    r"field of view of 1 to 179": (
        "Fields of view are no angles in radians",
        "They lie outside of 1 to 179 degrees, as degrees do that are read as radians.",
        "Store radians.",
    ),
}
# Formats hold objects in the unit cube; over 256 objects the median of the hulls' longest edges is 1.02 to 1.04.
_UNIT = (0.75, 1.35)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Args:
        severity: `error` = images or cameras are wrong, `warning` = worth a look, `note` = to know.
        title: what, in a few words.
        count: how many, such as `3 of 40 objects`.
        detail: what it means.
        advice: what to do; empty for nothing.
        examples: a few of them.
    """

    severity: Severity
    title: str
    count: str
    detail: str
    advice: str = ""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """All that was looked at in a tree of posed renders.

    Args:
        images: of every object.
        misfits: of the objects whose cameras were tested, in pixels at 128.
        extents: longest edges of their hulls, scene units, with mended cameras.
        diagnosis: of those.
        stored: what the reader takes poses for.
        statistics: of all cameras.
    """

    images: Sequence[Images]
    misfits: Mapping[str, float]
    extents: Mapping[str, float]
    diagnosis: Diagnosis
    stored: Convention | None
    statistics: CameraStatistics


def all_findings(check: Check) -> list[Finding]:
    """Every finding, errors first."""
    found = [*_of_images(check.images), *_of_cameras(check), *_of_statistics(check)]
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(found, key=lambda finding: order[finding.severity])


def verdict(findings: Sequence[Finding]) -> str:
    """One sentence."""
    errors = [finding for finding in findings if finding.severity == "error"]
    warnings = sum(finding.severity == "warning" for finding in findings)
    more = f" {warnings} warning{'s' * (warnings != 1)}." if warnings else ""
    if not errors:
        return f"No error found.{more}"
    others = f" and {len(errors) - 1} more error{'s' * (len(errors) > 2)}" if len(errors) > 1 else ""
    return f"Do not train on this yet: {errors[0].title[:1].lower() + errors[0].title[1:]}{others}.{more}"


def skip_list(check: Check) -> dict[str, str]:
    """Objects that cannot be used, with the reason; a mistake of the whole data set is none of a single object."""
    reasons: dict[str, str] = {}
    first: dict[str, str] = {}
    for images in check.images:
        uid, known = images.uid, first.get(images.digest, "") if images.usable else ""
        if images.error or images.unreadable:
            reasons[uid] = " ".join((images.error or next(iter(images.unreadable.values()))).split())
        elif images.opaque:
            reasons[uid] = f"view {images.opaque[0]} has no transparency"
        elif images.empty:
            reasons[uid] = f"view {images.empty[0]} shows nothing"
        elif known:
            reasons[uid] = f"the same images as {known}"
        if images.usable:
            first.setdefault(images.digest, uid)
    diagnosis = check.diagnosis
    for uid, (one, other) in diagnosis.swapped.items():
        reasons.setdefault(uid, f"views {one} and {other} have each other's camera")
    for uid, views in diagnosis.bad_views.items():
        reasons.setdefault(uid, f"wrong cameras of {view_names(views)}")
    for explanation in diagnosis.explanations:
        for uid in () if explanation.of_all else explanation.uids:
            reasons.setdefault(uid, f"these look like {explanation.hypotheses[0].finding}")
    if len(diagnosis.own_radii) < len(check.misfits) / 2:
        for uid in diagnosis.own_radii:
            reasons.setdefault(uid, "the distance of each view was lost")
    for uid in diagnosis.unexplained:
        reasons.setdefault(uid, "images and cameras do not fit together")
    return reasons


def _of_images(images: Sequence[Images]) -> Iterable[Finding]:
    total = len(images)
    groups: dict[tuple[str, str, str], list[Images]] = defaultdict(list)
    for one in images:
        if one.error:
            groups[_kind(one)].append(one)
    for (title, detail, advice), members in groups.items():
        examples = tuple(one.error for one in members[:_EXAMPLES])
        yield Finding("error", title, _of(len(members), total), detail, advice, examples)
    if broken := [one for one in images if one.unreadable]:
        count = sum(len(one.unreadable) for one in broken)
        yield Finding(
            "error",
            "Missing or unreadable views",
            f"{count} view{'s' * (count > 1)} of {_of(len(broken), total)}",
            "Files are missing, damaged or of another size.",
            "Render or download them again, or leave the objects out (skip_uids.txt).",
            tuple(text for one in broken for text in one.unreadable.values())[:_EXAMPLES],
        )
    if opaque := [one for one in images if one.opaque]:
        papers = Counter(one.paper for one in opaque)
        paper = papers.most_common(1)[0][0]
        yield Finding(
            "error",
            f"{'A background' if paper == 'a background' else f'A {paper} background'} is baked in",
            _of(len(opaque), total),
            "Alpha is opaque everywhere: the object cannot be cut out, composited or tested against its cameras.",
            "Render with a transparent film (Blender: Render > Film > Transparent) and save RGBA.",
            _named(opaque, "opaque"),
        )
    mixed = [one for one in images if one.mixed]
    # Single objects may be so dark, or so white, by themselves.
    if len(mixed) > 1 / 2 * sum(not one.opaque and not one.error for one in images):
        colour = Counter(one.mixed for one in mixed).most_common(1)[0][0]
        yield Finding(
            "error",
            f"A {colour} background is mixed into the edges",
            _of(len(mixed), total),
            f"Half-transparent pixels hold colours already blended with {colour}"
            f"{' (premultiplied alpha)' if colour == 'black' else ''}: on other backgrounds every edge gets a rim.",
            "Save straight alpha: divide the colours by alpha before writing.",
            tuple(one.uid for one in mixed[:_EXAMPLES]),
        )
    if empty := [one for one in images if one.empty]:
        everything = all(len(one.empty) == one.views for one in empty)
        yield Finding(
            "error" if any(len(one.empty) > 1 for one in empty) else "warning",
            "Empty objects" if everything else "Empty views",
            f"{sum(len(one.empty) for one in empty)} views of {_of(len(empty), total)}",
            "Nothing is seen: the object is elsewhere, too small, or a sheet seen edge-on.",
            "Look at them; leave the objects out (skip_uids.txt) if rendering failed.",
            _named(empty, "empty"),
        )
    if clipped := [one for one in images if one.clipped]:
        yield Finding(
            "warning",
            "The image border cuts the object",
            f"{sum(len(one.clipped) for one in clipped)} views of {_of(len(clipped), total)}",
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
            tuple(" = ".join(uids[:4]) for uids in twice[:_EXAMPLES]),
        )


def _of_cameras(check: Check) -> Iterable[Finding]:
    diagnosis, tested = check.diagnosis, len(check.misfits)
    if check.statistics.at_origin:
        yield Finding(
            "error",
            "Cameras stand in the object's centre",
            _of(check.statistics.at_origin, len(check.images)),
            "Translations are 0: nothing can be seen from there.",
            "Look where the poses lost their translations: in the last column, in scene units.",
        )
        return
    for explanation in diagnosis.explanations:
        yield _explained(explanation, check)
    # A few objects may be too thin for their pixels, or have sheets that vanish edge-on.
    few = max(1, tested / 50)
    for uids, title, detail, advice, certain in (
        (
            [f"{uid}: views {a} and {b}" for uid, (a, b) in diagnosis.swapped.items()],
            "Two views have each other's camera",
            "Exchanged, they fit.",
            "Exchange the poses, or leave the objects out (skip_uids.txt).",
            True,
        ),
        (
            [f"{uid}: {view_names(views)}" for uid, views in diagnosis.bad_views.items()],
            "Single views do not fit the others",
            "The other views of these objects fit together.",
            "Look at these views below; render them again, or leave the objects out (skip_uids.txt).",
            tested < 50 or len(diagnosis.bad_views) > few,
        ),
        (
            diagnosis.own_radii,
            "The distance of each view was lost",
            "Translations were scaled view by view, for example to one radius: silhouettes fit with other distances.",
            "Store the distances of rendering; one scale for the whole object, never one a view.",
            len(diagnosis.own_radii) > few,
        ),
    ):
        if uids:
            yield Finding(
                "error" if certain else "warning",
                title,
                _of(len(uids), tested),
                detail,
                advice,
                tuple(uids[:_EXAMPLES]),
            )
    if lost := diagnosis.unexplained:
        yield Finding(
            "error" if len(lost) > few else "warning",
            "Images and cameras do not fit together",
            _of(len(lost), tested),
            "No single mistake that is known explains it: perhaps images and poses of different objects or renders.",
            "Look at them below: the box must sit around the object in every view.",
            tuple(f"{uid}: {check.misfits[uid]:.1f} pixels" for uid in lost[:_EXAMPLES]),
        )
    read = sum(one.cameras is not None for one in check.images)
    turned = Counter(diagnosis.up.values())
    for up, count in turned.items():
        known = check.stored is not None and check.stored.world == "z_up"
        right = "+Z" if known else "+Y"
        looks = {"+Y": "a Y-up world", "+Z": "a Z-up world"}.get(up, f"a world whose up is {up}")
        yield Finding(
            "error" if count > read / 2 else "warning",
            f"These look like cameras in {looks}",
            _of(count, read),
            f"The cameras stand upright along {up}, and this format has {right} up: objects would lie on their side.",
            f"Turn the poses by 90 degrees about x, so that {right} is up.",
            tuple([uid for uid, axis in diagnosis.up.items() if axis == up][:_EXAMPLES]),
        )
    if read and not tested:
        yield Finding(
            "warning",
            "Cameras could not be tested",
            "all objects",
            "It takes three views with a transparent background that show the whole object from different sides.",
        )


def _explained(explanation: Explanation, check: Check) -> Finding:
    names = [_full(hypothesis, check) for hypothesis in explanation.hypotheses]
    convention = explanation.hypotheses[0].kind == "convention" and check.stored is not None
    expected = f"This format has {check.stored}. " if convention else ""
    return Finding(
        "error",
        f"These look like {' or '.join(names)}",
        _of(len(explanation.uids), explanation.tried),
        f"{expected}Silhouettes miss each other by {explanation.before:.1f} pixels (of 128) as stored, by "
        f"{explanation.after:.1f} read like this; right cameras have less than {FITS:g}, mostly 0.2.",
        f"{explanation.hypotheses[0].remedy[:1].upper()}{explanation.hypotheses[0].remedy[1:]}.",
        () if explanation.of_all else explanation.uids[:_EXAMPLES],
    )


def _full(hypothesis: Hypothesis, check: Check) -> str:
    """A hypothesis with numbers of this data, and with the world that the cameras' horizon tells."""
    if hypothesis.kind == "focal" and check.statistics.fov_deg:
        stated = check.statistics.median("fov_deg")
        fitting = check.statistics.fov_under(hypothesis.factor)
        return f"images of another field of view: {fitting:.1f} degrees fit, {stated:.1f} are stated"
    if hypothesis.kind == "convention" and check.diagnosis.up:
        up = Counter(check.diagnosis.up.values()).most_common(1)[0][0]
        return re.sub(
            r"a [YZ]-up world", f"a {up[1]}-up world" if up[0] == "+" else f"a world with {up} up", hypothesis.finding
        )
    return hypothesis.finding


def _of_statistics(check: Check) -> Iterable[Finding]:
    sizes = Counter(one.size for one in check.images if one.cameras is not None)
    if len(sizes) > 1:
        common = sizes.most_common(3)
        yield Finding(
            "note",
            "Images of several sizes",
            f"{len(sizes)} sizes",
            ", ".join(f"{count} objects of {width} x {height}" for (height, width), count in common) + ".",
        )
    counts = Counter(one.views for one in check.images if one.cameras is not None)
    if len(counts) > 1:
        shown = ", ".join(f"{objects} with {views}" for views, objects in counts.most_common(4))
        yield Finding("note", "Objects have different numbers of views", f"{len(counts)} numbers", f"{shown}.")
    if check.extents:
        extents = sorted(check.extents.values())
        middle = extents[len(extents) // 2]
        if not _UNIT[0] <= middle <= _UNIT[1] and not check.diagnosis.unexplained:
            yield Finding(
                "warning",
                f"Objects are {middle:.2f} units large",
                f"median of {len(extents)} objects",
                "This format holds objects in a cube of edge 1. Silhouettes fit, so all distances share this factor, "
                "or a long lens hides a wrong field of view.",
                "Scale the translations, or check the field of view.",
            )
    if check.statistics.off_centre > 0.1 and not check.diagnosis.explanations:
        yield Finding(
            "warning",
            "Cameras do not look at the origin",
            f"{check.statistics.off_centre:.0%} of the radius beside it",
            "The input-relative frame turns the object about the point at the first camera's distance ahead of it.",
            "Centre the objects, or look at their centre.",
        )


def _kind(one: Images) -> tuple[str, str, str]:
    """Title, detail and advice for an object that cannot be read; equal for objects with the same mistake."""
    for sign, said in _READING.items():
        if re.search(sign, one.error):
            return said
    text = one.error.replace(f"{one.uid}: ", "", 1)
    general = re.sub(r"\S*/\S*", "...", re.sub(r"view \d+ of", "a view of", text))
    return "Objects cannot be read", general, "Complete the objects, or leave them out (skip_uids.txt)."


def _of(count: int, total: int) -> str:
    return f"{count} of {total} object{'s' * (total != 1)}"


def view_names(views: Sequence[int]) -> str:
    """`view 3`, or `views 1, 4`."""
    listed = ", ".join(map(str, views[:6])) + (", ..." if len(views) > 6 else "")
    return f"view{'s' * (len(views) > 1)} {listed}"


def _named(images: Sequence[Images], kind: str) -> tuple[str, ...]:
    return tuple(f"{one.uid}: {view_names(getattr(one, kind))}" for one in images[:_EXAMPLES])
