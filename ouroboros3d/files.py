"""Files that other processes may be reading or writing, where they are kept, and what names content and code."""

import errno
import fcntl
import gc
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Numbers of the errors of a disk that has no room left, or none for this user."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a file or folder for which there was no room: the system names what it opens, and not what it writes.

    Raises:
        OSError: as it was raised, with the name.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path to write to in place of `path`, which it becomes when the block ends well.

    Every reader sees the old file or the new one; a writer that is killed, or a machine that loses its power, leaves
    the old one. The other path is beside `path`: only within a file system a file can be renamed at once.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with naming(path):
            yield part
            _to_disk(part)
            part.replace(path)
            _to_disk(path.parent)  # else the name may still be the old file's after a loss of power
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder in place of `path`, which it becomes when the block ends well; `path` is absent or empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        with naming(path):
            yield part
            for inner in (*part.rglob("*"), part):
                _to_disk(inner)
            part.replace(path)
            _to_disk(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def refuse_taken(out: Path) -> None:
    """Refuse a folder to write to that holds something.

    Raises:
        ValueError: it does, or is none.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out: expected a new or an empty folder, got {out}, which is taken; choose another --out.")


def remove_parts(folder: Path) -> None:
    """Remove what writers that were killed left of `atomic_write` in a folder that nobody writes to now."""
    for part in folder.glob(".*.part"):
        part.unlink()


def _to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_write(path) as part:
        part.write_text(text)


def append_line(path: Path, text: str) -> None:
    """Append a line to a file that other processes append to as well; a file that is not there is made."""
    line = f"{text}\n".encode()
    # One write of one short line in append mode does not mix with another process's.
    with naming(path), path.open("ab+", buffering=0) as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a killed writer left its line open: close it, so that this one counts
                line = b"\n" + line
        file.write(line)


def lock(path: Path) -> IO[str]:
    """Lock a file until it is closed or its process ends; a file that is not there is made.

    Raises:
        BlockingIOError: another process holds it.
    """
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    return file


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits.

    No further than the file says that it is long: one that the kernel makes up says nothing, and may have no end.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size
        while block := file.read(min(left, 2**20)):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector where many objects are made that stay: it would walk all there are over and over."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def default_cache_dir() -> Path:
    """`$OUROBOROS3D_CACHE`, or `ouroboros3d/` in the user's cache folder."""
    named = os.environ.get("OUROBOROS3D_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ouroboros3d"


def git_commit() -> str | None:
    """The commit of the source tree that runs, None where it is an installed copy without one."""
    command = ["git", "-C", os.path.dirname(__file__), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
