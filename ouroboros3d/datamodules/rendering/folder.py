"""A folder of rendered views: every object is rendered once, whichever run, process or machine asks first.

Any number of processes may fill and read one folder at a time, without locks: orbits appear complete or not at all, the
first writer wins, and both lists (`index.jsonl`, `failures.jsonl`) only grow by whole lines.
"""

import hashlib
import json
import logging
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ouroboros3d.datamodules.orbits.names import MapName
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.orbits.true_geometry import surface_name
from ouroboros3d.datamodules.orbits.writing import orbit_name
from ouroboros3d.datamodules.readers.meshes import Asset
from ouroboros3d.datamodules.rendering.entries import Entry, EntryList, Located, LocatedT, hash_asset
from ouroboros3d.datamodules.rendering.jobs import RENDERER_VERSION, RenderJob, RenderWorker, Stage
from ouroboros3d.datamodules.rendering.process import RenderProcess
from ouroboros3d.datamodules.rendering.run import render_all
from ouroboros3d.datamodules.splits import SPLITS, Split, read_splits, split_of, write_splits
from ouroboros3d.files import append_line, atomic_write_text

log = logging.getLogger(__name__)

# A temporary folder older than this belongs to no living writer.
_ABANDONED_AFTER_S = 3600
_CONFIG = "render_config.json"
_RENDERER = "ouroboros3d.renderers.meshes"


def render_config(rig: OrbitRig, maps: Sequence[MapName] = (), up: str | None = None) -> dict[str, Any]:
    """What shapes the files of a folder, and its hash."""
    config: dict[str, Any] = {
        "renderer": _RENDERER,
        "version": RENDERER_VERSION,
        "rig": rig.as_dict(),
        **({"maps": list(maps)} if maps else {}),
        **({"up": up} if up else {}),
    }
    return {**config, "sha256": _hash(config)}


def rendered_here(folder: Path) -> bool:
    """Whether a folder is described as one that this package rendered into."""
    try:
        known = _read_json(folder / _CONFIG)
    except OSError:
        return False
    return isinstance(known, dict) and known.get("renderer") == _RENDERER and known.get("sha256") == _hash(known)


def _hash(config: dict[str, Any]) -> str:
    shaping = {name: value for name, value in config.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()


class RenderFolder:
    """Views of many objects under one rig.

    Args:
        folder: holds a folder for each orbit; made if it is not there.
        rig: the cameras and the pixels' settings.
        maps: further images of every view.
        argument: what the folder was given as, for messages.
        up: the axis that all meshes are said to point up along; None for what their files say.

    Raises:
        ValueError: the folder cannot be written, or holds something else or views under another rig.
    """

    def __init__(
        self,
        folder: Path,
        rig: OrbitRig,
        maps: Sequence[MapName] = (),
        argument: str = "out",
        up: str | None = None,
    ) -> None:
        self.folder = folder
        self.rig = rig
        self.maps = tuple(maps)
        self._lists: dict[str, tuple[object, EntryList]] = {}
        config = render_config(rig, maps, up)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / _CONFIG).is_file():  # complete renders may be read-only
                others = [name for name in os.listdir(folder) if not name.startswith(".")]
                if others:
                    raise ValueError(
                        f"{argument}: expected a new or empty folder, or one that was rendered into before, got "
                        f"{folder} with {', '.join(sorted(others)[:3])}; name another one."
                    )
                atomic_write_text(folder / _CONFIG, json.dumps(config, indent=1) + "\n")
            known = _read_json(folder / _CONFIG)
        except OSError as error:
            raise ValueError(
                f"{argument}: expected a folder that can be written, got {folder} ({error}); name another one."
            ) from error
        if known != config:
            raise ValueError(
                f"{argument}: expected renders of one kind in a folder, got {folder} with "
                f"{_differences(known, config)}; name another folder."
            )

    def orbit_folders(self, uid: str) -> list[Path]:
        """The folders of an object's orbits, whether rendered yet or not."""
        return [self.folder / orbit_name(uid, orbit) for orbit in range(self.rig.orbits)]

    def complete(self, files: Sequence[LocatedT], surface_points: int = 0) -> list[LocatedT]:
        """Those of the objects whose orbits are all here, rendered from the file as it is now.

        A folder gets its name when it is complete, so one listing of all names says what is here. What is removed from
        inside a folder later is found by `holds`, which `render` asks too, or by who reads the object.

        Args:
            files: objects.
            surface_points: points of the true surface that must be there too; 0 = no true geometry.
        """
        index, names = self.read_list("index.jsonl"), self.orbit_names()
        for orbit in range(self.rig.orbits):
            ending = orbit_name("", orbit)
            files = [file for file in files if file.uid + ending in names]
        files = index.of(files)
        return [file for file in files if self.holds(file.uid, surface_points)] if surface_points else files

    def failures(self, files: Sequence[Located], surface_points: int = 0) -> dict[str, Entry]:
        """Why objects are left out, by uid; an object whose file has changed since gets another chance.

        Args:
            files: objects.
            surface_points: of the true geometry that is needed; an object with views that failed at anything else has
                not failed at this.
        """
        listed = self.read_list("failures.jsonl")
        failed = {file.uid: (file, listed.get(file.uid)) for file in listed.of(files)}
        rendered = {file.uid for file in self.complete([file for file, _ in failed.values()])} if failed else set()
        return {
            uid: entry
            for uid, (_, entry) in failed.items()
            if entry is not None and (uid not in rendered or entry.surface_points == surface_points > 0)
        }

    def remarkable(self, files: Sequence[Located]) -> list[Entry]:
        """The entries, with a doubt or notes, of those of the objects that are rendered."""
        entries = {entry.uid: entry for entry in self.read_list("index.jsonl").remarkable()}
        return [entries[file.uid] for file in self.complete([file for file in files if file.uid in entries])]

    def missing(
        self, files: Sequence[LocatedT], *, retry_failed: bool = False, surface_points: int = 0
    ) -> list[LocatedT]:
        """Those of the objects that `render` would render.

        Args:
            files: objects.
            retry_failed: also those that failed before.
            surface_points: points of the true surface that each object needs beside its views; 0 = no true geometry.
        """
        ready = {file.uid for file in self.complete(files) if self.holds(file.uid, surface_points)}
        if not retry_failed:
            ready |= set(self.failures([file for file in files if file.uid not in ready], surface_points))
        return [file for file in files if file.uid not in ready]

    def render(
        self,
        assets: Sequence[Asset],
        *,
        workers: int,
        timeout_s: float,
        retry_failed: bool = False,
        surface_points: int = 0,
        start: Callable[[], RenderWorker] = RenderProcess,
    ) -> None:
        """Render what is missing, with a progress bar; broken objects go to `failures.jsonl` and never stop the run.

        Args:
            assets: the objects that the folder should hold.
            workers: how many render at a time.
            timeout_s: limit per object in seconds.
            retry_failed: also try objects that failed before.
            surface_points: points of the true surface that each object needs beside its views; 0 = no true geometry.
            start: makes a worker.

        Raises:
            ValueError: rendering cannot work at all (the worker does not start).
            OSError: the views cannot be written (the disk is full).
        """
        self._sweep()
        missing = self.missing(assets, retry_failed=retry_failed, surface_points=surface_points)
        if not missing:
            self.write_lists()  # in case that the one who rendered the last object was killed before it did
            return
        # Processes that start together on the same list then share the work instead of racing each other through it.
        random.Random(os.getpid()).shuffle(missing)
        started = time.monotonic()
        render_one = partial(self.render_one, timeout_s=timeout_s, surface_points=surface_points)
        what = f"rendering {self.rig.image_size} px views"
        render_all(missing, render_one, what, min(workers, len(missing)), start)
        self.write_lists()
        rendered, seconds = len(self.complete(missing)), time.monotonic() - started
        log.info("rendered %d of %d objects into %s in %.0f s", rendered, len(missing), self.folder, seconds)

    def render_one(self, asset: Asset, worker: RenderWorker, timeout_s: float, surface_points: int = 0) -> Stage | None:
        """Render one object unless another process has done so meanwhile, and record the outcome.

        Returns:
            `done`, where it failed, or None if the worker was told to end.
        """
        try:
            sha256, stat = hash_asset(asset.path), asset.path.stat()
        except OSError as error:
            self._append("failures.jsonl", Entry(asset.uid, "", 0, 0, "missing", error.strerror or str(error)))
            return "missing"
        # Of those that are here now: another process may be about to put its own, fresh ones here.
        here = [folder for folder in self.orbit_folders(asset.uid) if folder.exists()]
        stale = [folder for folder in here if _rendered_from(folder) != sha256]
        if not stale and self.holds(asset.uid, surface_points):
            entry = Entry(asset.uid, sha256, stat.st_size, stat.st_mtime_ns, own_uid=asset.own_uid)
            self._append("index.jsonl", entry)
            return "done"
        for folder in stale:
            remove_folder(folder)
        job = RenderJob(
            asset.uid,
            str(asset.path.resolve()),
            sha256,
            asset.license,
            asset.source,
            str(self.folder.resolve()),
            self.rig.as_dict(),
            timeout_s,
            surface_points,
            self.maps,
            asset.z_up,
        )
        result = worker.run(job)
        if worker.closed:
            return None
        if result.stage == "write":
            raise OSError(f"cannot go on rendering into {self.folder}: {result.error}")
        entry = Entry(
            *(asset.uid, sha256, stat.st_size, stat.st_mtime_ns, result.stage, result.error, surface_points),
            *(result.doubt, result.notes, asset.own_uid),
        )
        self._append("index.jsonl" if result.stage == "done" else "failures.jsonl", entry)
        return result.stage

    def holds(self, uid: str, surface_points: int = 0) -> bool:
        """Whether all orbits of an object are here, their metadata too, and its true geometry if asked for."""
        folder = f"{self.folder}/"
        return all(
            [os.path.isfile(f"{folder}{orbit_name(uid, orbit)}/meta.json") for orbit in range(self.rig.orbits)]
        ) and (not surface_points or os.path.isfile(f"{folder}{orbit_name(uid, 0)}/{surface_name(surface_points)}"))

    def orbit_names(self) -> set[str]:
        """Names of all orbits that are here, among others."""
        return set(os.listdir(self.folder))

    def read_list(self, name: str) -> "EntryList":
        """`index.jsonl` or `failures.jsonl`; read again when the file has changed."""
        try:
            with (self.folder / name).open("rb") as file:
                stat = os.fstat(file.fileno())
                state = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
                if name not in self._lists or self._lists[name][0] != state:
                    self._lists[name] = (state, EntryList(file.read().decode(errors="replace")))
        except FileNotFoundError:
            return EntryList("")
        return self._lists[name][1]

    def write_lists(self) -> None:
        """The orbits of each split (default fractions), for readers that know the folder but not the tree."""
        names: dict[Split, list[str]] = {split: [] for split in SPLITS}
        index = self.read_list("index.jsonl")
        own = index.own_uids()
        for uid in index:
            names[split_of(own.get(uid, uid))] += [orbit_name(uid, orbit) for orbit in range(self.rig.orbits)]
        names = {split: sorted(members) for split, members in names.items()}
        written = all((self.folder / f"{split}.txt").is_file() for split in SPLITS) and read_splits(self.folder)
        if written != names:  # complete renders may be read-only
            write_splits(self.folder, names)

    def _append(self, name: str, entry: Entry) -> None:
        append_line(self.folder / name, entry.to_json())

    def _sweep(self) -> None:
        for folder in self.folder.glob(".*.part"):
            try:
                abandoned = time.time() - folder.stat().st_mtime > _ABANDONED_AFTER_S
            except FileNotFoundError:
                continue  # its writer has just finished
            if abandoned and folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
            elif abandoned:
                folder.unlink(missing_ok=True)


def _read_json(path: Path) -> Any:  # noqa: ANN401
    """The content of a file, None if it is no JSON."""
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


def _differences(known: Any, config: dict[str, Any]) -> str:  # noqa: ANN401
    """Where a folder's description and the one asked for differ, as `views 16 instead of 24`."""
    if not isinstance(known, dict) or not isinstance(known.get("rig"), dict):
        return f"an unreadable {_CONFIG}"
    left, right = (
        {"maps": [], "up": "as the files say", **one, **one["rig"], "rig": "", "sha256": ""} for one in (known, config)
    )
    names = [name for name in right if left.get(name) != right[name]]
    return ", ".join(f"{name} {_shown(left.get(name))} instead of {_shown(right[name])}" for name in names)


def _shown(value: object) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _rendered_from(folder: Path) -> str:
    """The hash of the mesh file that a complete orbit was rendered from; empty without one."""
    try:
        return str(json.loads((folder / "meta.json").read_text())["object"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def remove_folder(folder: Path) -> None:
    """Remove an orbit at once, so that no reader finds half of it."""
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}.old.part")
    try:
        folder.rename(hidden)
    except FileNotFoundError:
        return  # never rendered, or another process removed it first
    shutil.rmtree(hidden, ignore_errors=True)
