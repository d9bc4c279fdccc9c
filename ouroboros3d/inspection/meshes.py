"""What a tree of meshes holds: counts, categories, licences, and files that cannot be rendered."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ouroboros3d.datamodules.orbits import OrbitRig
from ouroboros3d.datamodules.readers.meshes import Asset
from ouroboros3d.datamodules.render_cache import RenderCache
from ouroboros3d.inspection.finding import Finding, few, of_objects

# From four sides and above: a single camera sees nothing of a sheet edge-on, and 16 pixels nothing of a wire.
_SMALL = OrbitRig(image_size=48, orbits=1, views=4, elevation_deg=(30.0, 30.0), supersampling=1)
_MANY = 0.1  # of the objects; fewer than that are left out of training and named there, which is nothing to stop for


def broken_assets(assets: Sequence[Asset], workers: int, timeout_s: float) -> dict[str, str]:
    """Objects that the renderer cannot use, with the reason.

    Each is loaded and rendered in small by the processes that fill the cache, since files come from anywhere:
    one that hangs or crashes is only another entry.

    Args:
        assets: the objects.
        workers: processes.
        timeout_s: limit per object in seconds.
    """
    with tempfile.TemporaryDirectory(prefix="check-data.") as folder:
        cache = RenderCache(Path(folder), _SMALL)
        cache.render(assets, workers=workers, timeout_s=timeout_s)
        return {uid: f"{entry.stage}: {entry.error}" for uid, entry in cache.failures(assets).items()}


def mesh_findings(assets: Sequence[Asset], broken: dict[str, str]) -> list[Finding]:
    """What is wrong with the objects.

    Args:
        assets: the objects.
        broken: those that cannot be rendered, with the reason.
    """
    found = []
    if broken:
        found.append(
            Finding(
                "error" if len(broken) > _MANY * len(assets) else "warning",
                "Meshes cannot be rendered",
                of_objects(len(broken), len(assets)),
                "Files are missing, damaged, empty, or take too long.",
                "Download them again, or leave them out (skip_uids.txt).",
                tuple(f"{uid}: {reason}" for uid, reason in list(broken.items())[:5]),
                few(len(broken), len(assets)),
            )
        )
    if unknown := sum(asset.license == "unknown" for asset in assets):
        found.append(
            Finding(
                "note",
                "No licence is known",
                of_objects(unknown, len(assets)),
                "The tree has no metadata about them.",
                "Find out before you publish renders.",
            )
        )
    found.append(
        Finding("note", "No cameras to check", "meshes", "They are rendered by this package, with cameras of its own.")
    )
    return found


def mesh_facts(assets: Sequence[Asset]) -> dict[str, str]:
    """Counts of a tree of meshes."""
    categories = Counter(name for asset in assets for name in asset.categories)
    licences = Counter(asset.license for asset in assets)
    facts = {"objects": str(len(assets))}
    if categories:
        common = ", ".join(f"{name} {count}" for name, count in categories.most_common(8))
        facts["categories"] = f"{len(categories)}: {common}{', ...' if len(categories) > 8 else ''}"
    facts["licences"] = ", ".join(f"{name} {count}" for name, count in licences.most_common())
    return facts
