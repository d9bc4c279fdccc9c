"""Files that come from anywhere: what they may be at most, and the one way in which they fail.

Meshes are read in a process whose memory and time are limited (`render_worker`). Views and photos are read by the
processes that train, so nothing of theirs is unpacked before its size is known.
"""

import errno
import io
import json
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

# Of a mesh file, a texture or a photo in bytes: 5 million faces as text, or a photo of 200 megapixels in 16 bits.
MAX_ASSET_BYTES = 2**30
# Numbers in one list of a mesh file, and in all that are read of it: no honest object has more, and they bound what a
# few bytes can claim: zeros that are not stored, or one list read for each of many parts.
MAX_NUMBERS, MAX_NUMBERS_READ = 20_000_000, 200_000_000
MAX_FACES = 5_000_000
MAX_PARTS = 100_000  # nodes of a scene, and primitives in them
# Pixels of a texture's side, and of all textures of an object: 16 of 4096 x 4096, of which the renderer makes 3 GiB.
MAX_TEXTURE_SIDE, MAX_TEXTURE_PIXELS = 8192, 2**28
# A view is at most as large as a phone's photo, and decoded in a quarter of a GiB; its maps have three floats a pixel.
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


@contextmanager
def refusing(kind: type[UntrustedError], expected: str, remedy: str = "") -> Iterator[None]:
    """The one boundary to what others wrote: whatever goes wrong inside becomes an error of that kind.

    Args:
        kind: the error.
        expected: its beginning: where, and what should have been there.
        remedy: its end: what to do.

    Raises:
        UntrustedError: of that kind.
    """
    try:
        yield
    except UntrustedError:
        raise
    except Exception as error:  # any key may be missing or of any type, and decoders raise what they like
        reason = str(error.strerror if isinstance(error, OSError) and error.strerror else error).rstrip(".")
        found = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        refusal = kind(f"{expected}, got {found}{'; ' * bool(remedy)}{remedy}.")
        raise refusal from error


def read_regular(path: Path, limit: int) -> bytes:
    """The content of a file.

    Args:
        path: the file.
        limit: bytes that it may have.

    Raises:
        OSError: no such file, a larger one, or no regular one: reading a pipe or a device would never end.
    """
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, "a folder")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "no regular file")
    if found.st_size > limit:
        raise OSError(errno.EFBIG, f"{found.st_size} bytes, of which at most {limit} are read")
    with path.open("rb") as file:
        return file.read(found.st_size)  # and no further: what the kernel makes up says that it has no bytes


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


def open_image(content: bytes, largest: int, formats: tuple[str, ...] | None = IMAGE_FORMATS) -> Image.Image:
    """An image whose pixels are not decoded yet.

    Args:
        content: of the file.
        largest: pixels that a side may have.
        formats: that are tried; None for all of Pillow's.

    Raises:
        ValueError: a side is longer; the decoders raise errors of any kind.
    """
    image = Image.open(io.BytesIO(content), formats=formats)
    if max(image.size) > largest:
        raise ValueError(f"{image.width} x {image.height} pixels, expected at most {largest} a side")
    return image
