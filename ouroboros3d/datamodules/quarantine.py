"""Objects of a tree of renders that cannot be read: a list with the reasons, which later runs respect.

Meshes that cannot be rendered have theirs in the render folder (`failures.jsonl`).
"""

import json
import logging
from pathlib import Path

from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.posed import PosedReader
from ouroboros3d.datamodules.splits import Split
from ouroboros3d.files import append_line, replace_text

log = logging.getLogger(__name__)


class Quarantine:
    """The list of one tree, which any number of processes may append to at a time.

    Args:
        path: the list, a JSON object `{"uid", "error"}` a line; it comes into being with the first entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._added: set[str] = set()

    @classmethod
    def of(cls, tree: PosedReader, cache_dir: Path) -> "Quarantine":
        """The list of a tree as it is opened: with other promised views, other objects may be broken."""
        return cls(cache_dir / "quarantine" / f"{tree.key}.jsonl")

    def read(self) -> dict[str, str]:
        """The reason of every object that is listed now, by uid."""
        try:
            lines = self.path.read_text().splitlines()
        except FileNotFoundError:
            return {}
        reasons: dict[str, str] = {}
        for line in lines:
            try:
                entry = json.loads(line)
                reasons[entry["uid"]] = entry["error"]
            except (ValueError, KeyError, TypeError):
                continue  # of a writer that was killed: its object fails again when it is read
        return reasons

    def add(self, uid: str, error: str) -> None:
        """List an object, and say so, once a process.

        Raises:
            ValueError: the list cannot be written.
        """
        if uid in self._added:
            return
        self._added.add(uid)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_line(self.path, json.dumps({"uid": uid, "error": error}))
        except OSError as reason:
            raise ValueError(
                f"cache_dir: expected a folder that can be written, got {self.path.parent} ({reason}), to list an "
                f"object that cannot be read: {error}"
            ) from reason
        log.warning("an object cannot be read and is left out, listed in %s: %s", self.path, error)

    def retry(self, tree: PosedReader) -> None:
        """Forget the objects all of whose views can be read by now."""
        self._added.clear()
        reasons = {uid: _reason(tree, uid) for uid in self.read()}
        if reasons:
            # What others list meanwhile is lost here, and found again when it is read.
            lines = (json.dumps({"uid": uid, "error": reason}) for uid, reason in reasons.items() if reason)
            replace_text(self.path, "".join(f"{line}\n" for line in lines))


def _reason(tree: PosedReader, uid: str) -> str:
    """Why an object cannot be read; empty if it can."""
    try:
        found = tree.read(uid)
        for view in range(len(found)):
            found.rgba(view)
    except SampleError as error:
        return str(error)
    return ""


def say_left_out(split: Split, total: int, failures: list[str], what: str, listed: Path) -> None:
    """Warn of objects of a split that are left out.

    Args:
        split: theirs.
        total: objects of the split.
        failures: uid and reason of each that is left out.
        what: what it could not be: rendered or read.
        listed: where all of them are.
    """
    if failures:
        log.warning(
            "%d of %d %s objects could not be %s and are left out (--data.retry_failed true tries again), listed in "
            "%s: %s%s",
            len(failures),
            total,
            split,
            what,
            listed,
            "; ".join(failures[:3]),
            " ..." if len(failures) > 3 else "",
        )
