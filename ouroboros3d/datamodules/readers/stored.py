"""Files of an object wherever a format keeps them: in a folder, or as members of a zip or tar archive."""

import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from os import DirEntry, scandir
from pathlib import Path, PurePosixPath


class SampleError(ValueError):
    """A view of an object, or what belongs to it, is missing or unreadable."""


@dataclass(frozen=True)
class StoredFile:
    """A file on disk, or a member of an archive.

    Args:
        path: the file, or the archive.
        member: its name in the archive; empty for a plain file.
        extent: where the member lies in a tar file, (offset, size) in bytes; None elsewhere.
    """

    path: Path
    member: str = ""
    extent: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    @property
    def size(self) -> int:
        """Bytes, 0 where there is no such file."""
        if self.extent is not None:
            return self.extent[1]
        return len(self.read()) if self.member else self.path.stat().st_size if self.path.is_file() else 0

    def read(self) -> bytes:
        """The content.

        Raises:
            OSError: there is no such file, or it cannot be read.
        """
        if not self.member:
            return self.path.read_bytes()
        if self.extent is None:
            try:
                with zipfile.ZipFile(self.path) as archive:
                    return archive.read(self.member)
            except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError) as error:
                raise OSError(str(error)) from error
        offset, size = self.extent
        with self.path.open("rb") as archive:
            archive.seek(offset)
            content = archive.read(size)
        if len(content) < size:
            raise OSError(f"the archive ends after {len(content)} of {size} bytes")
        return content


class ObjectFiles:
    """The files of one object by their names relative to it.

    Args:
        uid: the object, for messages.
        path: its folder, `.zip` or `.tar`.

    Raises:
        SampleError: there is no such folder or archive, or it cannot be read.
    """

    def __init__(self, uid: str, path: Path) -> None:
        self.uid = uid
        self.path = path
        if not path.exists():
            raise SampleError(f"{uid}: expected {path}, which does not exist.")

    @cached_property
    def _members(self) -> dict[str, StoredFile]:
        try:
            if self.path.suffix == ".zip":
                with zipfile.ZipFile(self.path) as archive:
                    return {name: StoredFile(self.path, name) for name in archive.namelist() if name[-1:] != "/"}
            with tarfile.open(self.path, "r:") as archive:
                return {
                    item.name.removeprefix("./"): StoredFile(self.path, item.name, (item.offset_data, item.size))
                    for item in archive
                    if item.isfile()
                }
        except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError) as error:
            raise SampleError(f"{self.uid}: expected a readable archive, got {error} ({self.path}).") from error

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of all files, with forward slashes."""
        if not self.path.is_dir():
            return frozenset(self._members)
        return frozenset(p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file())

    def file(self, name: str) -> StoredFile:
        """A file by its name, whether it is there or not.

        Raises:
            SampleError: the name leads out of the object.
        """
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise SampleError(f"{self.uid}: expected names of files inside {self.path}, got {name!r}.")
        if self.path.is_dir():
            return StoredFile(self.path / name)
        return self._members.get(name, StoredFile(self.path, name))

    def has(self, name: str) -> bool:
        """Whether the object has a file of this name."""
        return (self.path / name).is_file() if self.path.is_dir() else name in self._members

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            SampleError: it is missing or unreadable.
        """
        file = self.file(name)
        try:
            return file.read()
        except OSError as error:
            raise SampleError(f"{self.uid}: expected {file}, got {error.strerror or error}.") from error

    def numbered(self, patterns: Sequence[str], at_least: int) -> int:
        """How many views the object has: numbered from 0 without a gap, each with one file of every pattern.

        Args:
            patterns: names with the view's number in `str.format`'s terms, such as `rgb/{0:03d}.png`.
            at_least: the number of views that the format promises.

        Raises:
            SampleError: a view is missing; the message names it.
        """
        present = [{int(m[1]) for name in self.names if (m := _regex(p).fullmatch(name))} for p in patterns]
        count = max(at_least, 1 + max((number for numbers in present for number in numbers), default=-1))
        for number in range(count):
            for pattern, numbers in zip(patterns, present, strict=True):
                if number not in numbers:
                    raise SampleError(
                        f"{self.uid}: view {number} of {count} is missing: {self.file(pattern.format(number))}; "
                        "complete the object, leave it out (skip_uids), or say how many views each has "
                        "(views_per_object)."
                    )
        return count


def _regex(pattern: str) -> re.Pattern[str]:
    first, *others = re.split(r"\{0:0(?:\d)d\}", pattern)
    return re.compile(re.escape(first) + r"(\d+)" + r"\1".join(map(re.escape, others)))


def first_folders(root: Path, depth: int = 1, limit: int = 16) -> Iterator[Path]:
    """The first few folders `depth` levels below a root, hidden ones aside: enough to recognise a layout by."""
    if depth == 0:
        yield root
        return
    if root.is_dir():
        with scandir(root) as entries:
            folders = (Path(entry.path) for entry in entries if _is_object(entry))
            for folder in islice(folders, limit):
                yield from first_folders(folder, depth - 1, limit)


def first_files(root: Path, suffixes: tuple[str, ...], limit: int = 256) -> list[str]:
    """Names with one of the suffixes among the first few entries of a folder."""
    if not root.is_dir():
        return []
    with scandir(root) as entries:
        return [entry.name for entry in islice(entries, limit) if entry.name.lower().endswith(suffixes)]


def folder_names(root: Path) -> list[str]:
    """The names of all folders in a root, hidden ones aside, sorted."""
    with scandir(root) as entries:
        return sorted(entry.name for entry in entries if _is_object(entry))


def _is_object(entry: DirEntry[str]) -> bool:
    return not entry.name.startswith((".", "__")) and entry.is_dir()
