"""Kinds of objects, by what `test` keeps of them: thick, symmetric, textured, seen from the side, easy."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped] # it ships no types

from ouroboros3d.comparison.outcome import Comparison
from ouroboros3d.comparison.statistics import PairedMean, paired_mean
from ouroboros3d.comparison.strips import views_of

_NEAR_BACKGROUND = 4 / 255  # what rounding makes of a page of one colour
_DECIMALS = 9
_AZIMUTH = "input_azimuth_deg"
PARTS = 3  # of the objects, by a property; fewer would hide a bend, more would hold few objects each


def kinds(comparison: Comparison, metric: str) -> dict[str, NDArray[np.float64]]:
    """What the objects are like: [O] by property, NaN where unknown; without properties in which none differ.

    `thickness` of silhouettes and their left-right `symmetry`, `texture`: the deviation of colours inside of them,
    `seen from the side`: |sin| of the input view's azimuth, and the baseline's value. Silhouettes are the pixels of the
    true views that differ from their background: a part that has the colour of its page is none of it.

    Args:
        comparison: of runs whose pictures are looked at.
        metric: whose value of the baseline says how easy an object is.
    """
    rows = [_properties(comparison, uid) for uid in comparison.uids]
    names = dict.fromkeys(name for row in rows for name in row)
    found = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
    found["value of the baseline"] = comparison.per_object(comparison.baseline.name, metric)
    # Of one colour, a deviation is 0 or what rounding leaves of it.
    return {
        name: values for name, values in found.items() if len(set(values[~np.isnan(values)].round(_DECIMALS))) >= PARTS
    }


def by_kind(
    comparison: Comparison, variant: str, metric: str, kind: NDArray[np.float64]
) -> list[tuple[tuple[float, float], PairedMean]]:
    """A variant's difference from the baseline for the thirds of the objects with the least of a property to the most.

    Args:
        comparison: of all objects.
        variant: its name.
        metric: that differs.
        kind: [O] the property.

    Returns:
        of each third the range of the property, and the difference; fewer thirds where there are fewer objects.
    """
    differences = comparison.differences(variant, metric)
    known = np.flatnonzero(~np.isnan(kind) & ~np.isnan(differences).all(0))
    order = known[np.argsort(kind[known], kind="stable")]
    parts = [part for part in np.array_split(order, PARTS) if part.size]
    return [((float(kind[part[0]]), float(kind[part[-1]])), paired_mean(differences[:, part])) for part in parts]


def silhouette(view: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where a view [H, W, 3] in [0, 1] differs from its corner, [H, W]."""
    differs: NDArray[np.bool_] = np.abs(view - view[0, 0]).max(-1) > _NEAR_BACKGROUND
    return differs


def thickness(mask: NDArray[np.bool_]) -> float:
    """The width of a strip that is as thick as a silhouette [H, W], as a share of the picture's side."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] - 0.5  # from the pixels' middles to the edge
    return float(4 * depth[mask].mean() / len(mask))  # on average a strip's points lie a quarter of its width inside


def symmetry(mask: NDArray[np.bool_]) -> float:
    """Intersection over union of a silhouette [H, W] and its mirror image left to right, about its own middle."""
    columns = np.flatnonzero(mask.any(0))
    own = mask[:, columns[0] : columns[-1] + 1]
    return float((own & own[:, ::-1]).sum() / (own | own[:, ::-1]).sum())


def _properties(comparison: Comparison, uid: str) -> dict[str, float]:
    """What is known of one object, of its pictures from the first run that has any."""
    found: dict[str, float] = {}
    for variant in comparison.variants:
        run = variant.first
        if _AZIMUTH in run.values and uid in run.uids:
            azimuth_deg = run.values[_AZIMUTH][run.uids.index(uid)]
            found["seen from the side"] = abs(float(np.sin(np.radians(azimuth_deg))))
        views = [np.asarray(view, dtype=np.float64) / 255 for view in views_of(run, uid, "truth.png")]
        seen = [(view, mask) for view in views if (mask := silhouette(view)).any()]
        if seen and "texture" not in found:
            found["thickness"] = float(np.mean([thickness(mask) for _, mask in seen]))
            found["symmetry"] = max(symmetry(mask) for _, mask in seen)
            found["texture"] = float(np.mean([view[mask].std(axis=0).mean() for view, mask in seen]))
    return found
