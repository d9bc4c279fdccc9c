"""Rows of an unfinished test, so that an interrupted one goes on where it stopped."""

import json
from pathlib import Path
from typing import IO, Any

from ouroboros3d.files import atomic_write_text, lock, naming


class Journal:
    """A file of JSON lines for each process of a test, kept until the results are written.

    The first line of a file is the identity of its test: rows that were measured under another checkpoint, on other
    objects or with other settings are never taken over.

    Args:
        folder: of the run.
        stem: of the results' names, such as `results`.
        identity: of the test, a short text.
    """

    def __init__(self, folder: Path, stem: str, identity: str) -> None:
        self.folder = folder
        self.stem = stem
        self.identity = identity
        self._file: IO[str] | None = None
        self._lock: IO[str] | None = None

    def lock(self) -> None:
        """Keep other tests out of this run's results until `close`, or until this process ends.

        Raises:
            ValueError: another process tests this run.
        """
        try:
            self._lock = lock(self.folder / f".{self.stem}.lock")
        except BlockingIOError as error:
            raise ValueError(
                f"test: expected no other test of {self.folder}, got one that is running; wait for it, or give "
                "this one a folder of its own with --version."
            ) from error

    def read(self) -> list[dict[str, Any]]:
        """The entries of all processes of an interrupted test with this identity; unfinished lines are left out."""
        entries = []
        for path in self._paths():
            first, *lines = path.read_text(errors="replace").split("\n")[:-1] or [""]
            for line in lines if first == self.identity else []:
                try:
                    entries.append(json.loads(line))
                except ValueError:
                    break  # where a crash of the machine cut the file, its object counts as not tested
        return entries

    def is_of_another_test(self) -> bool:
        """Whether an interrupted test left rows that this one cannot take over."""
        return any(path.read_text(errors="replace").partition("\n")[0] != self.identity for path in self._paths())

    def restart(self, entries: list[dict[str, Any]]) -> None:
        """Put all entries of an interrupted test into one file and remove the others."""
        merged = self._path("kept")
        atomic_write_text(merged, "".join(f"{line}\n" for line in [self.identity, *map(json.dumps, entries)]))
        for path in self._paths():
            if path != merged:
                path.unlink()

    def append(self, rank: int, entry: dict[str, Any]) -> None:
        """Add one entry of a process, safe from the process's own end on."""
        path = self._path(str(rank))
        with naming(path):
            if self._file is None:
                self._file = path.open("w")
                self._file.write(f"{self.identity}\n")
            self._file.write(f"{json.dumps(entry)}\n")
            self._file.flush()

    def close(self) -> None:
        """Let another test of this run begin."""
        for file in (self._file, self._lock):
            if file is not None:
                with naming(Path(file.name)):  # what found no room is tried once more
                    file.close()

    def remove(self) -> None:
        """Remove the files of all processes: the results are written."""
        for path in self._paths():
            path.unlink()

    def _path(self, process: str) -> Path:
        return self.folder / f"{self.stem}.{process}.jsonl.part"

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.stem}.*.jsonl.part"))
