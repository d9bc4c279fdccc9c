"""The cache of rendered views: a folder for every rig and version of the renderer, shared by all runs."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.rendering.folder import RenderFolder, render_config


class RenderCache(RenderFolder):
    """Views of many objects under one rig, in the cache.

    Args:
        cache_dir: holds one folder per rig and renderer version.
        rig: the cameras and the pixels' settings.

    Raises:
        ValueError: the folder cannot be created or written.
    """

    def __init__(self, cache_dir: Path, rig: OrbitRig) -> None:
        key = render_config(rig)["sha256"]
        super().__init__(Path(cache_dir).expanduser() / f"{rig.image_size}px-{key[:16]}", rig, argument="cache_dir")

    def assets_sha256(self, uids: Sequence[str]) -> str:
        """A hash of what objects look like here: their mesh files, the rig and the renderer's version."""
        known = {**self.read_list("failures.jsonl"), **self.read_list("index.jsonl")}
        lines = [self.folder.name, *(f"{uid} {known[uid].sha256}" for uid in sorted(uids))]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
