"""Everything that a check found, and the objects to leave out."""

from ouroboros3d.inspection.check import Check
from ouroboros3d.inspection.findings.cameras import camera_findings, suspects
from ouroboros3d.inspection.findings.finding import Finding, view_names
from ouroboros3d.inspection.findings.images import image_findings
from ouroboros3d.inspection.findings.maps import map_findings

_ORDER = ("error", "warning", "note")


def all_findings(check: Check) -> list[Finding]:
    """Every finding, errors first."""
    found = [*image_findings(check.images), *camera_findings(check), *map_findings(check.maps)]
    return sorted(found, key=lambda finding: _ORDER.index(finding.severity))


def skip_list(check: Check) -> tuple[dict[str, str], dict[str, str]]:
    """Objects to leave out, with the reason; a mistake of the whole data set is none of a single object.

    Returns:
        the broken ones, of which each has an error of its own, and those that only a warning is about.
    """
    broken: dict[str, str] = {}
    doubtful: dict[str, str] = {}
    first: dict[str, str] = {}
    for images in check.images:
        uid, known = images.uid, first.get(images.digest, "") if images.usable else ""
        if images.error or images.unreadable:
            broken[uid] = str(images.error or next(iter(images.unreadable.values())))
        elif images.opaque:
            broken[uid] = f"view {images.opaque[0]} has no transparency"
        elif images.empty:
            (broken if len(images.empty) > 1 else doubtful)[uid] = f"{view_names(images.empty)} showing nothing"
        elif known:
            doubtful[uid] = f"the same images as {known}"
        if images.usable:
            first.setdefault(images.digest, uid)
    for group in suspects(check):
        for uid, reason in group.reasons.items() if group.left_out else ():
            broken.setdefault(uid, reason)
    return broken, {uid: reason for uid, reason in doubtful.items() if uid not in broken}
