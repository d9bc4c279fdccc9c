"""What a suite has done so far: one JSON file, so that the same command goes on where it stopped."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ouroboros3d.files import atomic_write_text, lock

STATES = ("pending", "running", "interrupted", "done", "failed")


class Manifest:
    """The manifest of a suite, locked while it is open and written whole after each change.

    Args:
        folder: of the suite: `manifest.json`, `logs/` and the lock.
        settings: of all its tasks, by name; those of the manifest so far have to be the same.

    Raises:
        ValueError: another `ablate` holds it, it is damaged, or it was made with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.path = folder / "manifest.json"
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        # Every task inherits the descriptor, so the lock lasts until the last of them has ended, also where `ablate`
        # itself was killed and left them behind: a second one would train into the same folders.
        try:
            self.lock = lock(folder / "lock")
        except BlockingIOError as error:
            raise ValueError(
                f"{folder}: expected nobody else at work on this suite, got another ablate or tasks that outlived "
                f"one{_process_ids(self.path)}; wait for them or end them."
            ) from error
        try:
            content = _read(self.path)
            _check_same(folder, content["settings"], settings)
        except ValueError:
            self.lock.close()
            raise
        self.settings: dict[str, str] = {**content["settings"], **settings}
        self.tasks: dict[str, dict[str, Any]] = content["tasks"]
        for entry in self.tasks.values():
            if entry["state"] == "running":  # of an `ablate` that was killed
                entry["state"] = "interrupted"

    def __enter__(self) -> "Manifest":
        """The manifest itself, which is open and locked since it was made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let others work on the suite."""
        self.lock.close()

    def entry(self, task: str) -> dict[str, Any]:
        """What is known of a task."""
        return self.tasks.setdefault(task, {"state": "pending"})

    def save(self) -> None:
        """Write the manifest, whole or not at all."""
        atomic_write_text(self.path, json.dumps({"settings": self.settings, "tasks": self.tasks}, indent=2) + "\n")


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"settings": {}, "tasks": {}}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        whole = all(isinstance(value, str) for value in content["settings"].values())
        whole = whole and all(entry["state"] in STATES for entry in content["tasks"].values())
    except (ValueError, TypeError, KeyError, AttributeError):  # no JSON, or JSON of another kind
        whole = False
    if not whole:
        raise ValueError(
            f"{path}: expected the manifest of a suite, got a damaged file; remove {path.parent} and the suite's runs, "
            "or choose another --runs."
        )
    return dict(content)


def _check_same(folder: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    for name in before.keys() & now.keys():
        if before[name] != now[name]:
            raise ValueError(
                f"{name}: expected what {folder} was started with, {before[name] or 'nothing'}, got "
                f"{now[name] or 'nothing'}; choose another --runs, or remove {folder} and the suite's runs."
            )


def _process_ids(path: Path) -> str:
    entries = _read(path)["tasks"].items()
    running = [f"{name} (process {entry.get('pid')})" for name, entry in entries if entry["state"] == "running"]
    return f", at {' and '.join(running)}" if running else ""
