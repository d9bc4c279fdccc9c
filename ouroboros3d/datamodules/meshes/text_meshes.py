"""OBJ and MTL as programs write them: lines, names, and the files that names mean."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

from ouroboros3d.datamodules.meshes.assembly import MeshFile

_Entry = TypeVar("_Entry")
_COMMENT = re.compile(r"\s+#.*")


def text_lines(content: bytes) -> Iterator[tuple[int, str, str]]:
    """Number, first word in lower case, and rest of every line that is not empty or a comment.

    Lines end as on any system; one that ends in a backslash goes on in the next, except for a comment or the name of a
    group, which may be a path. UTF-8 and UTF-16, with or without a byte order mark, else Windows' Western encoding.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16", errors="replace")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252", errors="replace")
    held = ""
    number = 0
    for number, physical in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        line = held + physical.strip()
        if line.endswith("\\") and not line.startswith(("#", "g ", "o ")):
            held = line[:-1] + " "
            continue
        held = ""
        if line and line[0] != "#":
            yield number, *_words(line)
    if held.strip():
        yield number, *_words(held)


def numbers(rest: str) -> list[str]:
    """The words of a line of numbers, without the comment behind them."""
    return rest.partition("#")[0].split()


def named(entries: dict[str, _Entry], written: str) -> _Entry | None:
    """The entry that a name means: as it is written, without a comment behind it, or the only one in another case."""
    for name in (written, _COMMENT.sub("", written)):
        if name in entries:
            return entries[name]
    alike = [key for key in entries if _folded(_COMMENT.sub("", key)) == _folded(_COMMENT.sub("", written))]
    return entries[alike[0]] if len(alike) == 1 else None


def one_name(rest: str) -> str:
    """A name with single spaces, since white space of any kind and length separates words."""
    return " ".join(rest.split())


def file_named(file: MeshFile, folder: Path, written: str, root: Path | None = None) -> Path | None:
    """The file that a name means, in the folder or below it; None where there is none.

    Separators may be Windows', letters of another case, quotes and a comment around it. Of a path that leads out of the
    folder, from another computer most often, the longest end counts that is here.

    Args:
        file: that the name is written in or for.
        folder: that the name starts from.
        written: the name.
        root: the folder that links must not lead out of; None for that one.

    Raises:
        AssetError: a link leads out, or several files differ from the name in case alone.
    """
    bare = _COMMENT.sub("", written)
    for name in dict.fromkeys((written, bare, written.strip("\"'"), bare.strip("\"'"))):
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        for first in range(len(parts) if leads_out(name) else min(1, len(parts))):
            end = parts[first:]
            if ".." in end or ":" in end[0]:
                continue
            path = _matching(file, folder, end)
            if path is not None and not path.resolve().is_relative_to((root or folder).resolve()):
                refuse_name(file, written)
            if path is not None and path.is_file():
                return path
    return None


def refuse_name(file: MeshFile, name: str) -> NoReturn:
    """Raise AssetError for a name that leads out of the folder."""
    file.fail(f"expected names of files inside its folder, got {name!r}; put that file beside it")


def leads_out(name: str) -> bool:
    """Whether a path is absolute, on any system, or has a step up."""
    parts = name.replace("\\", "/").split("/")
    return parts[0] == "" or ":" in parts[0] or ".." in parts


def _matching(file: MeshFile, folder: Path, parts: Iterable[str]) -> Path | None:
    path = folder
    for part in parts:
        if not (path / part).exists():
            alike = [name for name in os.listdir(path) if _folded(name) == _folded(part)] if path.is_dir() else []
            if len(alike) > 1:
                file.fail(f"expected one file that is called {part!r} but for its case, got {sorted(alike)}")
            if not alike:
                return None
            part = alike[0]
        path = path / part
    return path


def _words(line: str) -> tuple[str, str]:
    keyword, *rest = line.split(None, 1)
    return keyword.lower(), rest[0].strip() if rest else ""


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
