"""Objects that are left out of training and of tests, and why: one record an object, whoever found it out.

Who wants to know why an object is missing reads one list. That of a tree of posed renders is in the cache, since its
tree may be read-only: what could not be read, and what `check-data` found. Meshes that could not be rendered are
listed beside the renders (`failures.jsonl`), since another rig, or another file, gives them another chance.
"""

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.posed import PosedReader
from ouroboros3d.datamodules.splits import Split
from ouroboros3d.files import append_line, atomic_write_text

log = logging.getLogger(__name__)

FoundBy = Literal["list", "render", "read", "check"]


@dataclass(frozen=True)
class LeftOut:
    """Why an object is left out.

    Args:
        found_by: a `list` of its tree names it and it is not on disk, `render` could not render its mesh, `read` could
            not read its views, or `check` found an error of its own.
        reason: in one line.
        listed: the list that says so; of what is not on disk, the tree.
    """

    found_by: FoundBy
    reason: str
    listed: Path


class Ledger:
    """The list of one tree of posed renders, which any number of processes may append to at a time.

    Args:
        path: the list, a JSON object `{"uid", "found_by", "reason"}` a line, of which the last one of an object counts;
            it comes into being with the first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._added: set[str] = set()

    @classmethod
    def of(cls, tree: PosedReader, cache_dir: Path) -> "Ledger":
        """The list of a tree as it is opened: with other promised views, other objects may be broken."""
        return cls(cache_dir / "left_out" / f"{tree.key}.jsonl")

    def read(self) -> dict[str, LeftOut]:
        """Every object that is listed now, by uid."""
        try:
            lines = self.path.read_text().splitlines()
        except FileNotFoundError:
            return {}
        found: dict[str, LeftOut] = {}
        for line in lines:
            try:
                entry = json.loads(line)
                if entry["found_by"] in get_args(FoundBy):
                    found[entry["uid"]] = LeftOut(entry["found_by"], entry["reason"], self.path)
            except (ValueError, KeyError, TypeError):
                continue  # of a writer that was killed: its object fails again when it is read
        return found

    def add(self, uid: str, error: str) -> None:
        """List an object that cannot be read, and say so, once a process.

        Raises:
            ValueError: the list cannot be written.
        """
        if uid in self._added:
            return
        self._added.add(uid)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_line(self.path, _line(uid, "read", error))
        except OSError as reason:
            raise ValueError(
                f"cache_dir: expected a folder that can be written, got {self.path.parent} ({reason}), to list an "
                f"object that cannot be read: {error}"
            ) from reason
        log.warning("an object cannot be read and is left out, listed in %s: %s", self.path, error)

    def replace(self, found: Mapping[str, tuple[FoundBy, str]]) -> None:
        """Put a check of the whole tree in place of all that was listed: it has read every object.

        Args:
            found: by whom, and the reason, of each object that is left out.
        """
        if found or self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lines = (_line(uid, *one) for uid, one in found.items())
            atomic_write_text(self.path, "".join(f"{line}\n" for line in lines))

    def retry(self, tree: PosedReader) -> None:
        """Forget the objects that could not be read and all of whose views can be by now."""
        self._added.clear()
        known = self.read()
        reasons = {uid: _reason(tree, uid) if one.found_by == "read" else one.reason for uid, one in known.items()}
        if known:  # what others add meanwhile is lost here, and found again when it is read
            self.replace({uid: (one.found_by, reasons[uid]) for uid, one in known.items() if reasons[uid]})


def _line(uid: str, found_by: FoundBy, reason: str) -> str:
    return json.dumps({"uid": uid, "found_by": found_by, "reason": reason})


def _reason(tree: PosedReader, uid: str) -> str:
    """Why an object cannot be read; empty if it can."""
    try:
        found = tree.read(uid)
        for view in range(len(found)):
            found.rgba(view)
    except SampleError as error:
        return str(error)
    return ""


def say_left_out(split: Split, total: int, left_out: Mapping[str, LeftOut]) -> None:
    """Warn of the objects of a split that are left out, in one line.

    Args:
        split: theirs.
        total: objects of the split.
        left_out: those of them that are left out, by name.
    """
    if not left_out:
        return
    counts = Counter(one.found_by for one in left_out.values())
    ways_out = ["they count as soon as they are on disk"] if counts["list"] else []
    ways_out += ["--data.retry_failed true tries again"] if counts["render"] or counts["read"] else []
    ways_out += ["--data.ignore_check true takes what check-data found"] if counts["check"] else []
    log.warning(
        "%d of %d %s objects are left out (found by %s; %s), listed in %s: %s%s",
        len(left_out),
        total,
        split,
        ", ".join(f"{found_by}: {counts[found_by]}" for found_by in get_args(FoundBy) if counts[found_by]),
        ", ".join(ways_out),
        " and ".join(sorted({str(one.listed) for one in left_out.values()})),
        "; ".join(f"{name}: {one.reason}" for name, one in list(left_out.items())[:3]),
        " ..." if len(left_out) > 3 else "",
    )
