"""Files that come from anywhere: what they may be at most, and the one way in which they fail.

Meshes are read in a process whose memory and time are limited (`rendering.worker`). Views and photos are read by the
processes that train, so nothing of theirs is unpacked before its size is known.
"""

import errno
import io
import json
import os
import re
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

# Of a mesh file, a texture or a photo in bytes: 5 million faces as text, or a photo of 200 megapixels without loss.
MAX_ASSET_BYTES = 2**30
# Numbers in one list of a mesh file, and in all that are read of it: no honest object has more, and they bound what a
# few bytes can claim: zeros that are not stored, or one list read for each of many parts.
MAX_NUMBERS, MAX_NUMBERS_READ = 20_000_000, 200_000_000
MAX_FACES = 5_000_000
MAX_PARTS = 100_000  # nodes of a scene, and primitives in them
# Pixels of a texture's side, and of all textures of an object: 16 of 4096 x 4096, of which the renderer makes 3 GiB.
MAX_TEXTURE_SIDE, MAX_TEXTURE_PIXELS = 8192, 2**28
# Phones take 200 megapixels of 16,320 pixels a side, and stitch panoramas. Decoded it is 1 GiB; a JPEG far less.
MAX_PHOTO_SIDE = 2**14
# Views in use have up to 1024, and one of this side is a quarter of a GiB as three floats a pixel, which maps have.
MAX_VIEW_SIDE = 4096
MAX_VIEW_BYTES = 2**28
MAX_SOLID_SIDE = 512  # cells of an object's true geometry; rendering writes 64
# Of what describes an object: its JSON (Python needs 25 times as much), or the listing of an archive and its members.
MAX_DESCRIPTION_BYTES, MAX_MEMBERS = 2**22, 2**16
# Of a list of the objects of a tree, unpacked: a million names with their paths.
MAX_LIST_BYTES = 2**28
MAX_NAME_BYTES = 200  # of an object: a file's name has 255, of which what is written beside it needs some
# Beyond this float32 overflows in a product of three.
MAX_COORDINATE = 1e30

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")  # Pillow has dozens of decoders; fewer are fewer ways in
_MAX_MESSAGE = 2000
# What a machine runs out of, or a disk that fails or is away: the same file may be read well the next time.
_OF_THE_MACHINE = {
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT),
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EACCES),
}
# No path, hidden file, control character, end of a line, or what is no text.
_NAME = re.compile(r"(?!\.)[^/\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


class UntrustedError(ValueError):
    """A file that cannot be used: one line with its place, what was expected and what was found.

    Args:
        message: what is wrong; names and values in it may be of any length and hold any character.
    """

    def __init__(self, message: str) -> None:
        if len(message) > _MAX_MESSAGE:  # its ends say what is wrong, a name in its middle is too long
            message = f"{message[: _MAX_MESSAGE // 2]} ... {message[-_MAX_MESSAGE // 2 :]}"
        super().__init__(" ".join("".join(one if one.isprintable() else " " for one in message).split()))


class MissingPackage(ValueError):
    """What a file holds needs an optional package that is not installed: the machine lacks it, and no file is wrong."""


@contextmanager
def reraise_as(kind: type[UntrustedError], expected: str, remedy: str = "") -> Iterator[None]:
    """The one boundary to what others wrote: whatever goes wrong inside becomes an error of that kind.

    What the machine is to blame for does not: a run ends with it, and no file is put down as broken.

    Args:
        kind: the error.
        expected: its beginning: where, and what should have been there.
        remedy: its end: what to do.

    Raises:
        UntrustedError: of that kind.
        MissingPackage: as it came.
        OSError: the machine is out of files, memory or disk, may not read the file, or cannot reach its disk.
    """
    try:
        yield
    except (UntrustedError, MissingPackage):
        raise
    except Exception as error:  # any key may be missing or of any type, and decoders raise what they like
        if machine := _of_the_machine(error):
            if isinstance(error, OSError) and error.filename:
                raise
            raise OSError(machine, os.strerror(machine), expected) from error
        found = f"{type(error).__name__}: {error}".rstrip(": .")
        if isinstance(error, OSError) and error.strerror:
            found = error.strerror
        refusal = kind(f"{expected}, got {found}{'; ' * bool(remedy)}{remedy}.")
        raise refusal from error


def _of_the_machine(error: Exception) -> int | None:
    """The number of an operating system's error that says nothing of a file; None for all others."""
    if isinstance(error, MemoryError):
        # Where a process may have so much and no more, that is enough for every honest file.
        limited = resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY
        return None if limited else errno.ENOMEM
    return error.errno if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE else None


def no_memory(error: BaseException | None) -> bool:
    """Whether no more memory was given on the host, by Python, numpy or PyTorch."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


def allocated_bytes() -> int:
    """What this process holds of that which RLIMIT_DATA limits."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmData:")[2].split()[0]) * 1024


def open_regular(path: Path, limit: int | None = None) -> BinaryIO:
    """A file to read from.

    Args:
        path: the file.
        limit: bytes that it may have; None where no more is read than is asked for.

    Raises:
        OSError: no such file, a larger one, or no regular one: opening a pipe would never end, nor reading a device.
    """
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, "a folder")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "no regular file")
    if limit is not None and found.st_size > limit:
        raise OSError(errno.EFBIG, f"{found.st_size} bytes, of which at most {limit} are read")
    return path.open("rb")


def read_regular(path: Path, limit: int) -> bytes:
    """The content of a file.

    Args:
        path: the file.
        limit: bytes that it may have.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path, limit) as file:
        # No further than it says: what the kernel makes up says that it has no bytes.
        return file.read(min(limit, os.fstat(file.fileno()).st_size))


def listed_names(text: str) -> list[str]:
    """The names in a list, one a line: spaces belong to them, and what follows a tab is a comment."""
    return [line.partition("\t")[0] for line in text.splitlines() if line.strip()]


def can_name_a_file(name: str) -> bool:
    """Whether what belongs to an object of this name can be written under it, and said in a line of text."""
    return _NAME.fullmatch(name) is not None and len(name.encode()) <= MAX_NAME_BYTES


def parse_json(content: bytes | str) -> Any:  # noqa: ANN401
    """A JSON value.

    Raises:
        ValueError: it is none, or nested deeper than can be parsed.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def open_image(content: bytes, largest: int, formats: tuple[str, ...] = IMAGE_FORMATS) -> Image.Image:
    """An image whose pixels are not decoded yet.

    Args:
        content: of the file.
        largest: pixels that a side may have.
        formats: that are tried, by Pillow's names.

    Raises:
        ValueError: a side is longer; the decoders raise errors of any kind.
    """
    image = Image.open(io.BytesIO(content), formats=formats)
    if max(image.size) > largest:
        raise ValueError(f"{image.width} x {image.height} pixels, expected at most {largest} a side")
    return image
