"""Our own orbits packed into tar files: whole objects, in the naming of WebDataset, with an index beside each.

`shard-000000.tar` holds `<uid>-00.meta.json`, `<uid>-00.render_0000.webp`, ...: what `<uid>-00/` holds as a folder, so
the `webdataset` library reads an orbit as one sample. `shard-000000.jsonl` has a line an object with the place of each
of its members, so objects are found without reading the tar files: any of them can be read at any time, and a sampler
deals them to processes and workers as it does with folders.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from ouroboros3d.datamodules.orbits.writing import orbit_name
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.ouroboros3d import Ouroboros3DReader
from ouroboros3d.datamodules.readers.stored import ObjectFiles, StoredFile
from ouroboros3d.datamodules.untrusted import (
    MAX_DESCRIPTION_BYTES,
    UntrustedError,
    open_regular,
    parse_json,
    reraise_as,
)

_BEGIN = '{"uid": '
_DECODER = json.JSONDecoder()


def shard_name(number: int) -> str:
    """File name of a shard's tar file."""
    return f"shard-{number:06d}.tar"


class ShardIndex:
    """Which objects a folder of shards holds, and where.

    A shard counts when its index is there, which is written last. Of an object that is in several shards, the last one
    holds the newest.

    Args:
        root: the folder.

    Raises:
        UntrustedError: an index that cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = sorted(root.glob("shard-*.jsonl"))
        # Of a line only the name is parsed: a large tree opens in a second, and its objects are looked up one by one.
        self._lines: dict[str, tuple[Path, int]] = {}
        for path in self.files:
            place = 0
            with (
                reraise_as(UntrustedError, f"root: expected the index of a shard in {path}"),
                open_regular(path) as file,
            ):
                while line := _line(file):
                    self._lines[_uid(line)] = (path, place)
                    place += len(line)

    def __contains__(self, uid: str) -> bool:
        return uid in self._lines

    @property
    def uids(self) -> list[str]:
        """Every object."""
        return list(self._lines)

    def members(self, uid: str) -> dict[str, StoredFile]:
        """The members of an object by name.

        Raises:
            SampleError: its line in the index is broken.
        """
        path, place = self._lines[uid]
        shard = path.with_suffix(".tar")
        with reraise_as(SampleError, f"{uid}: expected its members in {path}"), open_regular(path) as file:
            file.seek(place)
            return {
                name: StoredFile(shard, name, (int(offset), int(size)))
                for name, (offset, size) in parse_json(_line(file))["members"].items()
            }


def _line(file: BinaryIO) -> bytes:
    """The next line of an index, empty at its end."""
    line = file.readline(MAX_DESCRIPTION_BYTES + 1)
    if len(line) > MAX_DESCRIPTION_BYTES:
        raise ValueError(f"a line of more than {MAX_DESCRIPTION_BYTES} bytes")
    return line


def _uid(line: bytes) -> str:
    """The object of a line, of which no more is parsed."""
    text = line.decode()
    uid, _ = _DECODER.raw_decode(text, len(_BEGIN))
    if not text.startswith(_BEGIN) or not isinstance(uid, str):
        raise ValueError("another content")
    return uid


def index_line(uid: str, members: dict[str, tuple[int, int]]) -> str:
    """The line of an object in its shard's index.

    Args:
        uid: the object.
        members: where the bytes of each begin in the tar file, and how many.
    """
    return f"{_BEGIN}{json.dumps(uid)}, {json.dumps({'members': members})[1:]}\n"


class ShardReader(Ouroboros3DReader):
    """Orbits in shards that `render --shards` has packed."""

    name = "shards"
    looks_for = f"{shard_name(0)} and its index {shard_name(0).replace('.tar', '.jsonl')}"

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether the first shard has an index."""
        return (root / shard_name(0)).with_suffix(".jsonl").is_file()

    @cached_property
    def index(self) -> ShardIndex:
        """Where the objects are."""
        return ShardIndex(self.root)

    @property
    def _ours(self) -> bool:
        return True

    def list_uids(self) -> list[str]:
        """Every object of every shard."""
        return self.index.uids

    def orbit_files(self, uid: str) -> list[ObjectFiles]:
        """The members of every orbit of an object, under the names that they have in a folder.

        Raises:
            SampleError: it is in no shard, or its shard is missing.
        """
        if uid not in self.index:
            raise SampleError(f"{uid}: expected an object of the shards in {self.root}, got no such one.")
        members = self.index.members(uid)
        orbits: dict[str, dict[str, StoredFile]] = {}
        for name, file in members.items():
            orbit, _, inside = name.partition(".")
            orbits.setdefault(orbit, {})[inside] = file
        names = [orbit_name(uid, orbit) for orbit in range(len(orbits))]
        if not orbits or sorted(orbits) != sorted(names):
            raise SampleError(
                f"{uid}: expected the orbits {names or 'of an object'} in {self.root}, got {sorted(orbits)}."
            )
        return [_Packed(uid, next(iter(orbits[name].values())).path, orbits[name]) for name in names]


class _Packed(ObjectFiles):
    """Files of one orbit in a shard.

    Args:
        uid: the object.
        path: the shard.
        members: by the names that they have in a folder.
    """

    def __init__(self, uid: str, path: Path, members: dict[str, StoredFile]) -> None:
        super().__init__(uid, path)
        self._packed = members

    @property
    def _members(self) -> dict[str, StoredFile]:
        return self._packed
