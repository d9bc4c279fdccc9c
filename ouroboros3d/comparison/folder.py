"""The folder of a comparison: replaced as a whole, and never one that holds anything else."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ouroboros3d.files import naming

_MARKER = ".ouroboros3d-comparison"  # lists the files that are the comparison's own


def refuse_foreign(folder: Path) -> None:
    """Stop before anything is made where the folder is not ours to replace.

    Args:
        folder: that a comparison goes to.

    Raises:
        ValueError: it holds something that no comparison wrote.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out: expected a folder, got the file {folder}; choose another --out.")
    marker = folder / _MARKER
    own = {_MARKER, *marker.read_text(encoding="utf-8").splitlines()} if marker.is_file() else set()
    foreign = sorted(_files(folder) - own)
    if foreign:
        raise ValueError(
            f"out: expected a new folder or an earlier comparison, got {folder} with {foreign[0]}, which is not a "
            "comparison's; choose another --out."
        )


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A new empty folder that takes the place of an earlier comparison once everything is in it.

    Args:
        folder: that the comparison goes to.

    Yields:
        where to write.

    Raises:
        ValueError: the folder holds something that no comparison wrote.
    """
    folder = folder.resolve()
    refuse_foreign(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    part.mkdir()
    try:
        with naming(folder):
            yield part
            (part / _MARKER).write_text("\n".join(sorted(_files(part))) + "\n", encoding="utf-8")
            if folder.exists():
                folder.rename(old)
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
