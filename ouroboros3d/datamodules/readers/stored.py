"""Files of an object wherever a format keeps them: in a folder, or as members of a zip or tar archive."""

import errno
import io
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from os import DirEntry, scandir
from pathlib import Path, PurePosixPath
from typing import IO, cast

from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.untrusted import (
    MAX_DESCRIPTION_BYTES,
    MAX_MEMBERS,
    MAX_VIEW_BYTES,
    open_regular,
    read_regular,
    reraise_as,
)

_CHUNK = 2**16


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

    def read(self, limit: int = MAX_VIEW_BYTES) -> bytes:
        """The content.

        Args:
            limit: bytes that it may have.

        Raises:
            OSError: there is no such file, it cannot be read, or it is larger.
        """
        try:
            if not self.member:
                return read_regular(self.path, limit)
            if self.extent is None:
                with open_zip(self.path) as archive:
                    return zip_member(archive, self.member, limit)
            return _part(self.path, *self.extent, limit)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # of a broken archive
            raise OSError(f"{type(error).__name__}: {error}") from error


def _part(path: Path, offset: int, size: int, limit: int) -> bytes:
    if not 0 <= size <= limit:  # a negative size would read to the end
        raise OSError(f"{size} bytes, of which 0 to {limit} are read")
    with open_regular(path) as archive:
        there = archive.seek(0, io.SEEK_END) - offset
        if there < size:  # asked first, since room for all of them would be made
            raise OSError(f"the archive ends after {max(there, 0)} of {size} bytes")
        archive.seek(offset)
        return archive.read(size)


class _SmallReads(io.RawIOBase):
    """A file that gives little at a time: the libraries read what an archive says of its members all at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(MAX_DESCRIPTION_BYTES + 1 if size < 0 else min(size, MAX_DESCRIPTION_BYTES + 1))
        if len(content) > MAX_DESCRIPTION_BYTES:
            raise OSError(f"more than {MAX_DESCRIPTION_BYTES} bytes to say what is in an archive")
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def _archive(path: Path) -> _SmallReads:
    return _SmallReads(open_regular(path))


@contextmanager
def open_zip(archive: Path | bytes) -> Iterator[zipfile.ZipFile]:
    """A zip archive to read from, whose listing is no longer than `MAX_DESCRIPTION_BYTES`.

    Args:
        archive: its file or content.
    """
    with _SmallReads(io.BytesIO(archive)) if isinstance(archive, bytes) else _archive(archive) as file:
        with zipfile.ZipFile(cast("IO[bytes]", file)) as opened:
            yield opened


def zip_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """The content of a member, unpacked no further than it says it is long.

    Args:
        archive: it is in.
        name: of the member.
        limit: bytes that it may have.

    Raises:
        OSError: it is larger, or packed with a method that cannot be unpacked in parts.
        KeyError: there is none of this name.
    """
    member = archive.getinfo(name)
    if member.file_size > limit:
        raise OSError(f"{member.file_size} bytes, of which at most {limit} are read")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise OSError(f"a compression of type {member.compress_type}, expected stored or deflated members")
    with archive.open(member) as file:
        return b"".join(iter(partial(file.read, _CHUNK), b""))


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
            raise SampleError(f"{uid}: expected a folder or archive, got {path}, which does not exist.")

    @cached_property
    def _members(self) -> dict[str, StoredFile]:
        with reraise_as(SampleError, f"{self.uid}: expected a readable archive in {self.path}"):
            if self.path.suffix == ".zip":
                with open_zip(self.path) as archive:
                    return {name: StoredFile(self.path, name) for name in archive.namelist() if name[-1:] != "/"}
            with _archive(self.path) as file, tarfile.open(fileobj=cast("IO[bytes]", file), mode="r:") as archive:
                items = list(islice(archive, MAX_MEMBERS + 1))
            if len(items) > MAX_MEMBERS:
                raise OSError(f"more than {MAX_MEMBERS} members")
            return {
                item.name.removeprefix("./"): StoredFile(self.path, item.name, (item.offset_data, item.size))
                for item in items
                if item.isfile() and not item.issparse()
            }

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

    def read(self, name: str, limit: int = MAX_VIEW_BYTES) -> bytes:
        """The content of a file.

        Args:
            name: of the file.
            limit: bytes that it may have.

        Raises:
            SampleError: it is missing, unreadable or larger.
        """
        file = self.file(name)
        with reraise_as(SampleError, f"{self.uid}: expected {file}"):
            return file.read(limit)

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
                    file = self.file(pattern.format(number))
                    raise SampleError(
                        f"{self.uid}: view {number}: expected {count} views, got no {file}; complete the object, leave "
                        "it out (skip_uids), or say how many views each has (views_per_object)."
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
    try:
        return not entry.name.startswith((".", "__")) and entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself is no more a folder than a link to nothing
            return False
        raise
