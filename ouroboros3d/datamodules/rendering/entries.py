"""The lists of a folder of renders, a line an object: `index.jsonl` of the complete, `failures.jsonl` of the failed.

A folder of 100,000 objects opens in a second, so lines are searched before they are parsed.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from ouroboros3d.datamodules.rendering.jobs import Stage
from ouroboros3d.datamodules.untrusted import MAX_ASSET_BYTES, open_regular
from ouroboros3d.files import sha256_of

_BEGIN = '{"uid": '
_PLAIN_LINE = re.compile(r'^(\{"uid": "([^"\\\x00-\x1f]*)".*)$', re.MULTILINE)  # as nearly all are


class Located(Protocol):
    """What must be known of an object to tell whether it is rendered.

    An `Asset` knows it, and so does what holds no more than this, which is quicker to make for 100,000 objects.
    """

    @property
    def uid(self) -> str:
        """The object."""

    @property
    def path(self) -> Path | str:
        """Its mesh file."""


LocatedT = TypeVar("LocatedT", bound=Located)

_REMARKABLE = ("doubt", "notes")
_SELDOM = (*_REMARKABLE, "own_uid")


class Entry(NamedTuple):
    """A line of `index.jsonl` (an object whose orbits are complete) or `failures.jsonl`.

    Args:
        uid: the object.
        sha256: of its mesh file.
        size: of that file in bytes; size and time spare the next run hashing it again.
        mtime_ns: its modification time.
        stage: where it failed (`missing`, `load`, `render`, `memory`, `timeout`, `crash`); `done` in the index.
        error: the reason.
        surface_points: of the true geometry that was to be written too; 0 = views alone.
        doubt: why a rendered object should be looked at before anyone trains on it; empty for no reason.
        notes: what a rendered object's file says beside what is shown.
        own_uid: what the object is called in its tree, where `uid` is a name among several trees.
    """

    uid: str
    sha256: str
    size: int
    mtime_ns: int
    stage: Stage = "done"
    error: str = ""
    surface_points: int = 0
    doubt: str = ""
    notes: tuple[str, ...] = ()
    own_uid: str = ""

    def to_json(self) -> str:
        """The line; without doubt, notes and another uid where there are none, as nearly everywhere."""
        return json.dumps({name: value for name, value in self._asdict().items() if value or name not in _SELDOM})


class EntryList(Mapping[str, Entry]):
    """The last entry of every object in a list, by uid.

    Of a line only the name is read until its entry is asked for: a large folder opens in a third of the time. A line
    that is broken, the last one of a writer that was killed, is no entry.

    Args:
        content: of the file.
    """

    def __init__(self, content: str) -> None:
        lines, plain = content.splitlines(), _PLAIN_LINE.findall(content)
        self._lines = {uid: line for line, uid in plain}
        if len(plain) == len(lines):
            return
        self._lines, decoder = {}, json.JSONDecoder()
        for line in lines:
            try:
                uid, _ = decoder.raw_decode(line, len(_BEGIN))
            except ValueError:
                continue
            if isinstance(uid, str):
                self._lines[uid] = line

    def __getitem__(self, uid: str) -> Entry:
        """The entry of an object.

        Raises:
            KeyError: there is none.
        """
        try:
            fields = json.loads(self._lines[uid])
            return Entry(**fields | {"notes": tuple(fields.get("notes", ()))})
        except (ValueError, TypeError) as error:
            raise KeyError(uid) from error

    def __iter__(self) -> Iterator[str]:
        """Every object that has an entry."""
        return (uid for uid in self._lines if uid in self)

    def __len__(self) -> int:
        """How many objects have an entry."""
        return sum(1 for _ in self)

    def remarkable(self) -> list[Entry]:
        """The entries that have a doubt or notes."""
        uids = [uid for uid, line in self._lines.items() if any(f'"{name}": ' in line for name in _REMARKABLE)]
        return [self[uid] for uid in uids if uid in self]

    def own_uids(self) -> dict[str, str]:
        """What the objects are called in their trees that have another name here."""
        uids = [uid for uid, line in self._lines.items() if '"own_uid": ' in line]
        return {uid: self[uid].own_uid for uid in uids if uid in self}

    def of(self, files: Sequence[LocatedT]) -> list[LocatedT]:
        """Those of the objects that have an entry of their mesh file as it is now."""
        found = []
        for file in files:
            line = self._lines.get(file.uid)
            if line is None:
                continue
            try:
                stat = os.stat(file.path)
                # In a name or a reason these quotes would have a backslash before them.
                same = f', "size": {stat.st_size}, "mtime_ns": {stat.st_mtime_ns}, "' in line and line[-1] == "}"
                if same or self._is_of(file, stat.st_size):
                    found.append(file)
            except OSError:
                entry = self.get(file.uid)
                if entry is not None and not entry.sha256:  # it could not be read then either
                    found.append(file)
        return found

    def _is_of(self, file: Located, size: int) -> bool:
        """Whether an object's entry is of a mesh file of this content; slow."""
        entry = self.get(file.uid)
        if entry is None or (entry.sha256 and size != entry.size):
            return False
        return hash_asset(Path(file.path)) == entry.sha256


def hash_asset(path: Path) -> str:
    """SHA-256 of a mesh file.

    Raises:
        OSError: there is none, a larger one than meshes may be, or no regular one.
    """
    with open_regular(path, MAX_ASSET_BYTES):  # what no worker reads; hashing a pipe would never end, or take days
        return sha256_of(path)
