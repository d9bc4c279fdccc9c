"""The cache of rendered views: every object is rendered once, whichever run, process or machine asks first.

Any number of processes may fill and read one cache at a time, without locks: orbits appear complete or not at all, the
first writer wins, and both lists (`index.jsonl`, `failures.jsonl`) only grow by whole lines.
"""

import hashlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ouroboros3d.datamodules.orbits import OrbitRig, SampleError, orbit_name, read_meta
from ouroboros3d.datamodules.readers.objaverse import Asset
from ouroboros3d.datamodules.render_jobs import RENDERER_VERSION, RenderJob, RenderResult, Stage
from ouroboros3d.datamodules.splits import SPLITS, Split, split_of, write_splits
from ouroboros3d.datamodules.true_geometry import TrueGeometry, read_true_geometry, surface_file
from ouroboros3d.files import replace_text, sha256_of

log = logging.getLogger(__name__)

# A temporary folder older than this belongs to no living writer.
_ABANDONED_AFTER_S = 3600


@dataclass(frozen=True)
class Entry:
    """A line of `index.jsonl` (an object whose orbits are complete) or `failures.jsonl`.

    Args:
        uid: the object.
        sha256: of its mesh file.
        size: of that file in bytes; size and time spare the next run hashing it again.
        mtime_ns: its modification time.
        stage: where it failed (`missing`, `load`, `render`, `timeout`, `crash`); `done` in the index.
        error: the reason.
        surface_points: of the true geometry that was to be written too; 0 = views alone.
    """

    uid: str
    sha256: str
    size: int
    mtime_ns: int
    stage: Stage = "done"
    error: str = ""
    surface_points: int = 0


class RenderCache:
    """Views of many objects under one rig.

    Args:
        cache_dir: holds one folder per rig and renderer version.
        rig: the cameras and the pixels' settings.

    Raises:
        ValueError: the folder cannot be created or written.
    """

    def __init__(self, cache_dir: Path, rig: OrbitRig) -> None:
        self.rig = rig
        config = {"renderer": "ouroboros3d.renderers.meshes", "version": RENDERER_VERSION, "rig": rig.as_dict()}
        key = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        self.folder = Path(cache_dir).expanduser() / f"{rig.image_size}px-{key[:16]}"
        described = self.folder / "render_config.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not described.is_file():  # a complete cache may be read-only
                replace_text(described, json.dumps({**config, "sha256": key}, indent=1) + "\n")
        except OSError as error:
            raise ValueError(
                f"cache_dir: expected a folder that can be written, got {cache_dir} ({error}); name another one."
            ) from error

    def orbit_folders(self, uid: str) -> list[Path]:
        """The folders of an object's orbits, whether rendered yet or not."""
        return [self.folder / orbit_name(uid, orbit) for orbit in range(self.rig.orbits)]

    def complete(self, assets: Sequence[Asset], surface_points: int = 0) -> list[Asset]:
        """Those of the objects whose orbits are all in the cache, rendered from the file as it is now.

        Args:
            assets: objects.
            surface_points: points of the true surface that must be there too; 0 = no true geometry.
        """
        index = self._read("index.jsonl")
        rendered = [asset for asset in assets if asset.uid in index and self._matches(asset, index[asset.uid])]
        return [asset for asset in rendered if self._has_surface(asset.uid, surface_points)]

    def true_geometry(self, uid: str, surface_points: int) -> TrueGeometry:
        """The true geometry of a rendered object.

        Raises:
            SampleError: it was not written, or is broken.
        """
        return read_true_geometry(self.orbit_folders(uid)[0], surface_points, self.rig.views)

    def assets_sha256(self, uids: Sequence[str]) -> str:
        """A hash of what objects look like here: their mesh files, the rig and the renderer's version."""
        known = {**self._read("failures.jsonl"), **self._read("index.jsonl")}
        lines = [self.folder.name, *(f"{uid} {known[uid].sha256}" for uid in sorted(uids))]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def failures(self, assets: Sequence[Asset], surface_points: int = 0) -> dict[str, Entry]:
        """Why objects are left out, by uid; an object whose file has changed since gets another chance.

        Args:
            assets: objects.
            surface_points: of the true geometry that is needed; an object with views that failed at anything else has
                not failed at this.
        """
        failed, rendered = self._read("failures.jsonl"), {asset.uid for asset in self.complete(assets)}
        return {
            asset.uid: entry
            for asset in assets
            if (entry := failed.get(asset.uid)) is not None
            and _same_file(asset.path, entry)
            and (asset.uid not in rendered or entry.surface_points == surface_points > 0)
        }

    def render(
        self,
        assets: Sequence[Asset],
        *,
        workers: int,
        timeout_s: float,
        retry_failed: bool = False,
        surface_points: int = 0,
    ) -> None:
        """Render what is missing, with a progress bar; broken objects go to `failures.jsonl` and never stop the run.

        Args:
            assets: the objects that the cache should hold.
            workers: processes.
            timeout_s: limit per object in seconds.
            retry_failed: also try objects that failed before.
            surface_points: points of the true surface that each object needs beside its views; 0 = no true geometry.

        Raises:
            RuntimeError: rendering cannot work at all (the worker does not start, the disk is full).
        """
        self._sweep()
        ready = {asset.uid for asset in self.complete(assets, surface_points)}
        if not retry_failed:
            ready |= set(self.failures(assets, surface_points))
        missing = [asset for asset in assets if asset.uid not in ready]
        if not missing:
            return
        # Processes that start together on the same list then share the work instead of racing each other through it.
        random.Random(os.getpid()).shuffle(missing)
        started = time.monotonic()
        _run_all(self, missing, min(workers, len(missing)), timeout_s, surface_points)
        self._write_lists()
        rendered, seconds = len(self.complete(missing)), time.monotonic() - started
        log.info("rendered %d of %d objects into %s in %.0f s", rendered, len(missing), self.folder, seconds)

    def render_one(self, asset: Asset, worker: "Worker", timeout_s: float, surface_points: int = 0) -> None:
        """Render one object unless another process has done so meanwhile, and record the outcome."""
        try:
            sha256, stat = _sha256(asset.path), asset.path.stat()
        except OSError as error:
            self._append("failures.jsonl", Entry(asset.uid, "", 0, 0, "missing", error.strerror or str(error)))
            return
        stale = [folder for folder in self.orbit_folders(asset.uid) if _rendered_from(folder) != sha256]
        if not stale and self._has_surface(asset.uid, surface_points):
            self._append("index.jsonl", Entry(asset.uid, sha256, stat.st_size, stat.st_mtime_ns))
            return
        for folder in stale:
            _remove(folder)
        job = RenderJob(
            asset.uid,
            str(asset.path.resolve()),
            sha256,
            asset.license,
            asset.source,
            str(self.folder),
            self.rig.as_dict(),
            timeout_s,
            surface_points,
        )
        result = worker.run(job)
        if worker.closed:
            return
        if result.stage == "write":
            raise RuntimeError(f"cannot write rendered views into {self.folder}: {result.error}")
        entry = Entry(asset.uid, sha256, stat.st_size, stat.st_mtime_ns, result.stage, result.error, surface_points)
        self._append("index.jsonl" if result.stage == "done" else "failures.jsonl", entry)

    def _matches(self, asset: Asset, entry: Entry) -> bool:
        return _same_file(asset.path, entry) and all((f / "meta.json").is_file() for f in self.orbit_folders(asset.uid))

    def _has_surface(self, uid: str, surface_points: int) -> bool:
        return not surface_points or surface_file(self.orbit_folders(uid)[0], surface_points).is_file()

    def _append(self, name: str, entry: Entry) -> None:
        line = (json.dumps(asdict(entry)) + "\n").encode()
        # One write of one short line in append mode does not mix with another process's.
        with (self.folder / name).open("ab+", buffering=0) as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a killed writer left its line open: close it, so that this one counts
                    line = b"\n" + line
            file.write(line)

    def _read(self, name: str) -> dict[str, Entry]:
        try:
            lines = (self.folder / name).read_text().splitlines()
        except FileNotFoundError:
            return {}
        entries = {}
        for line in lines:
            try:
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError):
                continue  # the last line of a writer that was killed: its object counts as not rendered
            entries[entry.uid] = entry
        return entries

    def _write_lists(self) -> None:
        """The orbits of each split (default fractions), for readers that know the folder but not the tree."""
        names: dict[Split, list[str]] = {split: [] for split in SPLITS}
        for uid in self._read("index.jsonl"):
            names[split_of(uid)] += [folder.name for folder in self.orbit_folders(uid)]
        write_splits(self.folder, names)

    def _sweep(self) -> None:
        for folder in self.folder.glob(".*.part"):
            try:
                abandoned = time.time() - folder.stat().st_mtime > _ABANDONED_AFTER_S
            except FileNotFoundError:
                continue  # its writer has just finished
            if abandoned:
                shutil.rmtree(folder, ignore_errors=True)


class Worker:
    """One `render_worker` process, started when first needed and again after a crash."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[bytes] | None = None
        self.closed = False

    def run(self, job: RenderJob) -> RenderResult:
        """Render one object.

        Raises:
            RuntimeError: the process does not start at all.
        """
        if self._process is None:
            self._start()
        line = self._exchange(job.to_json() + "\n")
        if line:
            return RenderResult(**json.loads(line))
        status, tail = self._reap()
        if status == -signal.SIGALRM:
            return RenderResult("timeout", f"took longer than {job.timeout_s:g} s")
        died = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return RenderResult("crash", f"the rendering process died ({died}) {tail}".strip())

    def kill(self) -> None:
        """End the process, whatever it is doing; the object it works on counts as not tried."""
        self.closed = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the idle process and free its pipes."""
        self.kill()
        if self._process is not None:
            self._reap()

    def _start(self) -> None:
        package_parent = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (package_parent, os.environ.get("PYTHONPATH", ""))))
        # One thread per worker and no GPU: the same pixels wherever the cache is filled.
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ouroboros3d.datamodules.render_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
        )
        if not self._exchange(""):
            status, tail = self._reap()
            raise RuntimeError(f"the rendering process did not start (exit status {status}): {tail}")

    def _exchange(self, text: str) -> str:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return ""
        try:
            process.stdin.write(text)
            process.stdin.flush()
        except BrokenPipeError:
            return ""
        line = process.stdout.readline()
        return line if line.endswith("\n") else ""

    def _reap(self) -> tuple[int, str]:
        process, errors = self._process, self._errors
        self._process = self._errors = None
        assert process is not None
        assert errors is not None
        status = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
        errors.close()
        return status, lines[-1][:300] if lines else ""


def _run_all(cache: RenderCache, assets: Sequence[Asset], count: int, timeout_s: float, surface_points: int) -> None:
    local = threading.local()
    workers: list[Worker] = []

    def task(asset: Asset) -> None:
        if not hasattr(local, "worker"):
            local.worker = Worker()
            workers.append(local.worker)
        if not stopping.is_set():
            cache.render_one(asset, local.worker, timeout_s, surface_points)

    stopping = threading.Event()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with ThreadPoolExecutor(count) as pool, Progress(*columns) as progress:
            bar = progress.add_task(f"rendering {cache.rig.image_size} px views", total=len(assets))
            try:
                for future in as_completed([pool.submit(task, asset) for asset in assets]):
                    future.result()
                    progress.advance(bar)
            finally:
                stopping.set()
                if progress.tasks[bar].completed < len(assets):
                    for worker in workers:
                        worker.kill()
    finally:
        for worker in workers:
            worker.close()


def _rendered_from(folder: Path) -> str:
    """The hash of the mesh file that a complete orbit was rendered from; empty without one."""
    try:
        return str(read_meta(folder)["object"]["sha256"])
    except (SampleError, KeyError):
        return ""


def _same_file(path: Path, entry: Entry) -> bool:
    try:
        stat = path.stat()
        if (stat.st_size, stat.st_mtime_ns) == (entry.size, entry.mtime_ns):
            return True
        return stat.st_size == entry.size and _sha256(path) == entry.sha256
    except OSError:
        return not entry.sha256  # it could not be read then either


def _sha256(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")  # reading a pipe or a device would never end
    return sha256_of(path)


def _remove(folder: Path) -> None:
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}.old.part")
    try:
        folder.rename(hidden)
    except FileNotFoundError:
        return  # never rendered, or another process removed it first
    shutil.rmtree(hidden, ignore_errors=True)
