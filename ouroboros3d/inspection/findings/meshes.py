"""What a tree of meshes holds: counts, categories, licences, and files that cannot be rendered."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.readers.meshes import Asset
from ouroboros3d.datamodules.rendering.cache import RenderCache
from ouroboros3d.inspection.findings.finding import EXAMPLES, Finding, count_text, is_minority

# From four sides and above: a single camera sees nothing of a sheet edge-on, and 16 pixels nothing of a wire.
_SMALL = OrbitRig(image_size=48, orbits=1, views=4, elevation_deg=(30.0, 30.0), supersampling=1)
_MANY = 0.1  # of the objects; fewer than that are left out of training and named there, which is nothing to stop for


class Trial(NamedTuple):
    """What became of objects that were rendered in small.

    broken: objects that the renderer cannot use, with the reason.
    doubtful: those that came out as nobody would train on, with the reason.
    notes: how many objects' files say what is not shown, or shown in another way.
    """

    broken: dict[str, str]
    doubtful: dict[str, str]
    notes: Counter[str]

    def left_out(self, total: int) -> dict[str, str]:
        """Doubtful objects to leave out; where most are, it is what the tree is like."""
        return self.doubtful if is_minority(len(self.doubtful), total) else {}


def try_assets(assets: Sequence[Asset], workers: int, timeout_s: float) -> Trial:
    """Load and render every object in small.

    The processes that fill the cache do this too, since files come from anywhere: a file that makes one hang or crash
    is only another entry of what is broken.

    Args:
        assets: the objects.
        workers: processes.
        timeout_s: limit per object in seconds.
    """
    with tempfile.TemporaryDirectory(prefix="check-data.") as folder:
        cache = RenderCache(Path(folder), _SMALL)
        cache.render(assets, workers=workers, timeout_s=timeout_s)
        told = cache.remarkable(assets)
        return Trial(
            {uid: f"{entry.stage}: {entry.error}" for uid, entry in cache.failures(assets).items()},
            {entry.uid: entry.doubt for entry in told if entry.doubt},
            Counter(note for entry in told for note in entry.notes),
        )


def mesh_findings(assets: Sequence[Asset], trial: Trial) -> list[Finding]:
    """What is wrong with the objects.

    Args:
        assets: the objects.
        trial: what became of them.
    """
    found, broken, doubtful = [], trial.broken, trial.doubtful
    if broken:
        found.append(
            Finding(
                "error" if len(broken) > _MANY * len(assets) else "warning",
                "Meshes cannot be rendered",
                count_text(len(broken), len(assets)),
                "Files are missing, damaged, empty, or take too long.",
                "Download them again, or leave them out (skip_uids.txt).",
                tuple(f"{uid}: {reason}" for uid, reason in list(broken.items())[:EXAMPLES]),
                is_minority(len(broken), len(assets)),
            )
        )
    if doubtful:
        found.append(
            Finding(
                "warning",
                "Objects come out as a speck or in one extreme colour",
                count_text(len(doubtful), len(assets)),
                "Colours or textures are perhaps not where they are looked for, or something unseen is far away.",
                "Look at them, and leave out what is not meant to look so (skip_uids.txt).",
                tuple(f"{uid}: {reason}" for uid, reason in list(doubtful.items())[:EXAMPLES]),
                bool(trial.left_out(len(assets))),
            )
        )
    if trial.notes:
        found.append(
            Finding(
                "note",
                "Files say more than is shown",
                f"{len(trial.notes)} kinds",
                "Renders show base colours; what files say beside them, or otherwise, is counted by objects.",
                examples=tuple(
                    f"{count_text(count, len(assets))}: {note}" for note, count in trial.notes.most_common()
                ),
            )
        )
    if unknown := sum(asset.license == "unknown" for asset in assets):
        found.append(
            Finding(
                "note",
                "No licence is known",
                count_text(unknown, len(assets)),
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
