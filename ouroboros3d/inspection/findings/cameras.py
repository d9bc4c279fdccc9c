"""What is wrong with the cameras of a tree, and which of its objects have it."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ouroboros3d.inspection.camera_checks.conventions import Hypothesis
from ouroboros3d.inspection.camera_checks.diagnosis import Explanation
from ouroboros3d.inspection.camera_checks.silhouette_fit import FITS
from ouroboros3d.inspection.check import Check
from ouroboros3d.inspection.findings.finding import (
    EXAMPLES,
    Finding,
    binomial_tail,
    count_text,
    is_minority,
    view_names,
)

# Formats hold objects in the unit cube; over 256 objects the median of the hulls' longest edges is 1.02 to 1.04.
_UNIT = (0.75, 1.35)

# Of 511 objects of furniture with right cameras, 0.1 % do not fit, and none has a misfit above 1.2 pixels. Others may
# be thinner: this share might misfit, and beyond so many pixels one alone is certain.
_CHANCE = 0.01
_CERTAIN = 2.0


@dataclass(frozen=True)
class Suspects:
    """Tested objects that share a mistake which others do not have.

    Args:
        title: of the mistake.
        detail: what it means.
        advice: what to do.
        reasons: what is wrong with each, by uid.
        certain: whether it cannot be chance.
        left_out: whether they are to be left out: not what is chance, nor what most objects have.
    """

    title: str
    detail: str
    advice: str
    reasons: Mapping[str, str]
    certain: bool
    left_out: bool


def suspects(check: Check) -> Iterable[Suspects]:
    """Every group of tested objects whose cameras do not fit while others do."""
    diagnosis, tested = check.diagnosis, len(check.misfits)
    groups = [
        (
            "Two views have each other's camera",
            "Exchanged, they fit.",
            "Exchange the poses, or leave the objects out (skip_uids.txt).",
            {uid: f"views {a} and {b} have each other's camera" for uid, (a, b) in diagnosis.swapped.items()},
        ),
        (
            "Single views do not fit the others",
            "The other views of these objects fit together.",
            "Look at these views below; render them again, or leave the objects out (skip_uids.txt).",
            {uid: f"{view_names(views)} not fitting the others" for uid, views in diagnosis.bad_views.items()},
        ),
        (
            "The distance of each view was lost",
            "Translations were scaled view by view, for example to one radius: silhouettes fit with other distances.",
            "Store the distances of rendering; one scale for the whole object, never one a view.",
            dict.fromkeys(diagnosis.own_radii, "the distance of each view was lost"),
        ),
        (
            "Images and cameras do not fit together",
            "No single mistake that is known explains it: perhaps images and poses of different objects or renders.",
            "Look at them below: the box must sit around the object in every view.",
            {
                uid: f"images and cameras do not fit together, by {check.misfits[uid]:.1f} pixels"
                for uid in diagnosis.unexplained
            },
        ),
    ]
    for explanation in diagnosis.explanations:
        if not explanation.of_all:
            finding = _explained(explanation, check)
            reason = f"these look like {explanation.hypotheses[0].finding}"
            groups.append((finding.title, finding.detail, finding.advice, dict.fromkeys(explanation.uids, reason)))
    for title, detail, advice, reasons in groups:
        if reasons:
            certain = _certain(reasons, check)
            yield Suspects(title, detail, advice, reasons, certain, certain and is_minority(len(reasons), tested))


def camera_findings(check: Check) -> Iterable[Finding]:
    """What is wrong with the cameras of all objects, or of some."""
    if check.statistics.at_origin:
        yield Finding(
            "error",
            "Cameras stand in the object's centre",
            count_text(check.statistics.at_origin, len(check.images)),
            "Translations are 0: nothing can be seen from there.",
            "Look where the poses lost their translations: in the last column, in scene units.",
        )
        return
    for explanation in check.diagnosis.explanations:
        if explanation.of_all:
            yield _explained(explanation, check)
    tested = len(check.misfits)
    for group in suspects(check):
        more = "" if check.complete else f" Only {tested} objects were tested: --all finds every such object."
        yield Finding(
            "error" if group.certain else "note",
            group.title,
            count_text(len(group.reasons), tested),
            group.detail,
            group.advice + more,
            tuple(f"{uid}: {reason}" for uid, reason in list(group.reasons.items())[:EXAMPLES]),
            group.left_out and check.complete,
        )
    yield from _upright(check)
    if not tested and any(one.cameras is not None for one in check.images):
        yield Finding(
            "warning",
            "Cameras could not be tested",
            "all objects",
            "It takes three views with a transparent background that show the whole object from different sides.",
        )
    yield from _numbers(check)


def _certain(uids: Iterable[str], check: Check) -> bool:
    """Whether objects with right cameras would hardly misfit so much, or so many of them."""
    misfits = [check.misfits[uid] for uid in uids]
    return max(misfits) > _CERTAIN or binomial_tail(len(misfits), len(check.misfits), _CHANCE) < 0.01


def _upright(check: Check) -> Iterable[Finding]:
    diagnosis = check.diagnosis
    read = sum(one.cameras is not None for one in check.images)
    turned = Counter(diagnosis.up.values())
    for up, count in turned.items():
        known = check.stored is not None and check.stored.world == "z_up"
        right = "+Z" if known else "+Y"
        looks = {"+Y": "a Y-up world", "+Z": "a Z-up world"}.get(up, f"a world whose up is {up}")
        yield Finding(
            "error" if count > read / 2 else "warning",
            f"These look like cameras in {looks}",
            count_text(count, read),
            f"The cameras stand upright along {up}, and this format has {right} up: objects would lie on their side.",
            f"Turn the poses by 90 degrees about x, so that {right} is up.",
            tuple([uid for uid, axis in diagnosis.up.items() if axis == up][:EXAMPLES]),
        )


def _explained(explanation: Explanation, check: Check) -> Finding:
    names = [_full(hypothesis, check) for hypothesis in explanation.hypotheses]
    convention = explanation.hypotheses[0].kind == "convention" and check.stored is not None
    expected = f"This format has {check.stored}. " if convention else ""
    return Finding(
        "error" if _certain(explanation.uids, check) else "warning",
        f"These look like {' or '.join(names)}",
        count_text(len(explanation.uids), explanation.tried),
        f"{expected}Silhouettes miss each other by {explanation.before:.1f} pixels as stored, by "
        f"{explanation.after:.1f} read like this; right cameras have less than {FITS:g}, mostly 0.2.",
        f"{explanation.hypotheses[0].remedy[:1].upper()}{explanation.hypotheses[0].remedy[1:]}.",
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


def _numbers(check: Check) -> Iterable[Finding]:
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
