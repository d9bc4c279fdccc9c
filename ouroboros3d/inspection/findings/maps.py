"""What is wrong with the depth and normal maps of a tree.

Nothing trains on them, so that they stop nobody; by depth a test measures `coordinate_error`.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from ouroboros3d.inspection.findings.finding import EXAMPLES, Finding, binomial_tail, count_text
from ouroboros3d.inspection.maps import FITS, WRONG, Maps

_EXPLAINS = 0.5  # of the conflict that is left; of right depth lengths of rays leave 0.85 at least
# A net of half-transparent threads, 1 of 511 objects of furniture, has 0.03: this share might have as much, and beyond
# so many units one object alone is certain.
_CHANCE, _CERTAIN = 0.01, 0.05
_SCALE = 0.02  # where that of right depth leaves less than half, it is within 0.007 of 1
_AWAY = 0.05  # of the normals; right ones that were smoothed have less


def map_findings(maps: Mapping[str, Maps]) -> Iterable[Finding]:
    """What is wrong with the maps of objects whose cameras fit.

    Args:
        maps: by uid.
    """
    if broken := {uid: one for uid, one in maps.items() if one.unreadable}:
        yield Finding(
            "warning",
            "Depth or normal maps cannot be read",
            count_text(len(broken), len(maps)),
            "Files are missing, damaged or do not fit their views.",
            "Render or download them again; views and cameras can be used without them.",
            tuple(one.unreadable for one in broken.values())[:EXAMPLES],
        )
    if reasons := [one.not_read for one in maps.values() if one.not_read]:
        yield Finding(
            "note",
            "Depth or normal maps were not looked at",
            count_text(len(reasons), len(maps)),
            reasons[0],
            "Images and cameras were checked; check again once it is installed, if you need the maps.",
        )
    yield from _depth({uid: one for uid, one in maps.items() if one.depth is not None})
    if normals := {uid: one.facing_away for uid, one in maps.items() if one.facing_away is not None}:
        away = float(np.mean(list(normals.values())))
        if away > _AWAY:
            worst = sorted(normals, key=lambda uid: -normals[uid])
            yield Finding(
                "warning",
                "Normals point away from the cameras",
                f"{away:.0%} of those of {len(normals)} object{'s' * (len(normals) != 1)}",
                "A surface that is seen faces who sees it.",
                "Check their frame (world or camera, Y or Z up), their sign, and the order of the channels.",
                tuple(f"{uid}: {normals[uid]:.0%}" for uid in worst[:EXAMPLES]),
            )


def _depth(maps: Mapping[str, Maps]) -> Iterable[Finding]:
    if not maps:
        return
    stored, rays, scaled = (
        float(np.mean([getattr(one, name) for one in maps.values()]))
        for name in ("conflict", "conflict_of_rays", "conflict_scaled")
    )
    count = count_text(len(maps), len(maps))
    said = f"Points lifted from one view lie {stored:.3f} units before what other views see (0.1 at most)"
    if stored > FITS and rays < _EXPLAINS * stored and rays <= scaled:
        yield Finding(
            "warning",
            "Depth is measured along the rays, not along the camera's axis",
            count,
            f"{said}, {rays:.3f} when read as distances from the camera's centre.",
            "Divide by the length of the ray to depth 1: z = d / |((u - cx) / fx, (v - cy) / fy, 1)|.",
        )
        return
    factor = float(np.median([one.scale for one in maps.values()]))
    if stored > FITS and scaled < _EXPLAINS * stored and abs(math.log(factor)) > _SCALE:
        yield Finding(
            "warning",
            f"Depth is {1 / factor:.3g} times as long as the cameras' distances say",
            count,
            f"{said}, {scaled:.3f} when multiplied by {factor:.3g}.",
            "Store depth and translations in one unit; an object that is scaled takes both along.",
        )
        return
    wrong = sorted((uid for uid in maps if maps[uid].conflict > WRONG), key=lambda uid: -maps[uid].conflict)
    if wrong and (maps[wrong[0]].conflict > _CERTAIN or binomial_tail(len(wrong), len(maps), _CHANCE) < 0.01):
        yield Finding(
            "warning",
            "Depth does not agree with the cameras",
            count_text(len(wrong), len(maps)),
            "Points lifted from one view lie before what other views see; neither another scale nor lengths of rays "
            "explain it.",
            "Check the order of the maps, and that each view's depth has one scale and begins at the camera.",
            tuple(f"{uid}: by {maps[uid].conflict:.3f} units" for uid in wrong[:EXAMPLES]),
        )


def map_facts(maps: Mapping[str, Maps]) -> dict[str, str]:
    """Ranges of the maps, and how well they agree; empty where there are none."""
    facts = {}
    if depths := [one for one in maps.values() if one.depth is not None]:
        near = min(one.depth[0] for one in depths if one.depth)
        far = max(one.depth[1] for one in depths if one.depth)
        conflicts = [one.conflict for one in depths]
        facts["depth"] = (
            f"{near:.3f} to {far:.3f} in {len(depths)} objects; conflict between views median "
            f"{np.median(conflicts):.4f}, worst {max(conflicts):.4f}"
        )
    if away := [one.facing_away for one in maps.values() if one.facing_away is not None]:
        facts["normals"] = f"{np.mean(away):.1%} point away from the camera, in {len(away)} objects"
    return facts
