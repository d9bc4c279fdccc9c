"""Rendered orbits into WebDataset shards."""

import io
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.progress import track

from ouroboros3d.datamodules.orbits.names import MapName
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.orbits.true_geometry import surface_name
from ouroboros3d.datamodules.orbits.writing import orbit_name
from ouroboros3d.datamodules.readers.shards import ShardIndex, index_line, shard_name
from ouroboros3d.datamodules.readers.stored import folder_names
from ouroboros3d.datamodules.rendering.folder import RenderFolder, remove_folder
from ouroboros3d.files import atomic_write, atomic_write_text, lock


class ShardFolder(RenderFolder):
    """A folder whose orbits move into shards when all are rendered; one process at a time may fill it.

    Args:
        folder: holds the shards, and while rendering a folder for each orbit.
        rig: the cameras and the pixels' settings.
        maps: further images of every view.
        up: as `RenderFolder`.

    Raises:
        ValueError: as `RenderFolder`, or another process fills the folder.
    """

    def __init__(self, folder: Path, rig: OrbitRig, maps: Sequence[MapName] = (), up: str | None = None) -> None:
        super().__init__(folder, rig, maps, up=up)
        try:
            self._lock = lock(folder / ".lock")  # until this object or the process ends
        except BlockingIOError:
            raise ValueError(f"out: another render packs shards into {folder}; wait for it.") from None
        self.index = ShardIndex(folder)

    def holds(self, uid: str, surface_points: int = 0) -> bool:
        """Whether an object is in a shard or has all its folders."""
        if uid not in self.index:
            return super().holds(uid, surface_points)
        return not surface_points or f"{orbit_name(uid, 0)}.{surface_name(surface_points)}" in self.index.members(uid)

    def orbit_names(self) -> set[str]:
        """Names of all orbits that are here, in shards or as folders, among others."""
        packed = {orbit_name(uid, orbit) for uid in self.index.uids for orbit in range(self.rig.orbits)}
        return packed | super().orbit_names()

    def pack(self, limit: int) -> int:
        """Move the rendered objects into new shards, sorted by uid; what a kill left half-way is finished first.

        Args:
            limit: bytes of a shard's files, more only for a single object.

        Returns:
            How many shards there are.
        """
        for uid in {name.rpartition("-")[0] for name in folder_names(self.folder)} & set(self.index.uids):
            if self._is_packed(uid):
                self._remove(uid)
        uids = sorted(uid for uid in self.read_list("index.jsonl") if super(ShardFolder, self).holds(uid))
        number = len(self.index.files)
        for group in _groups(track(uids, "packing shards"), self, limit):
            self._write(number, group)
            for uid in group:
                self._remove(uid)
            number += 1
        self.index = ShardIndex(self.folder)
        return number

    def files(self, uid: str) -> list[Path]:
        """All files of an object's folders, metadata first in each."""
        return [
            path
            for folder in self.orbit_folders(uid)
            if folder.is_dir()
            for path in sorted(folder.iterdir(), key=lambda path: (path.name != "meta.json", path.name))
        ]

    def _is_packed(self, uid: str) -> bool:
        """Whether a shard holds the very files that are left of an object's folders."""
        packed = self.index.members(uid)
        return all(
            (member := packed.get(_member(path))) is not None and member.read() == path.read_bytes()
            for path in self.files(uid)
        )

    def _write(self, number: int, uids: Sequence[str]) -> None:
        """One shard and its index, which makes it count."""
        lines = []
        with (
            atomic_write(self.folder / shard_name(number)) as part,
            tarfile.open(part, "w", format=tarfile.GNU_FORMAT) as tar,
        ):
            for uid in uids:
                members = {}
                for path in self.files(uid):
                    content = path.read_bytes()
                    entry = tarfile.TarInfo(_member(path))  # no times and owners: the same objects, the same bytes
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
                    padded = -(-entry.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    members[entry.name] = (tar.offset - padded, entry.size)
                lines.append(index_line(uid, members))
        atomic_write_text((self.folder / shard_name(number)).with_suffix(".jsonl"), "".join(lines))

    def _remove(self, uid: str) -> None:
        for folder in self.orbit_folders(uid):
            remove_folder(folder)


def _member(path: Path) -> str:
    """A file's name in a shard: WebDataset's key ends at the first dot."""
    return f"{path.parent.name}.{path.name}"


def _groups(uids: Iterable[str], renders: ShardFolder, limit: int) -> Iterator[list[str]]:
    """Objects whose files together stay within a limit, or one object."""
    group: list[str] = []
    total = 0
    for uid in uids:
        size = sum(path.stat().st_size for path in renders.files(uid))
        if group and total + size > limit:
            yield group
            group, total = [], 0
        group.append(uid)
        total += size
    if group:
        yield group
