"""What all readers share: the objects of a tree, and how they are chosen."""

import difflib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

from ouroboros3d.datamodules.splits import Split
from ouroboros3d.datamodules.untrusted import (
    MAX_LIST_BYTES,
    MAX_NAME_BYTES,
    UntrustedError,
    can_name_a_file,
    listed_names,
    parse_json,
    read_regular,
)

_SHOWN = 20  # names in a message


class TreeReader(ABC):
    """A tree of objects in one format on disk.

    Args:
        root: the tree.
    """

    name: ClassVar[str]
    looks_for: ClassVar[str]  # what tells the format from others, for messages
    at_least: int | None = None  # views that each object has, where it has posed views

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    @classmethod
    @abstractmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder is such a tree, from a look at its first few entries."""

    @abstractmethod
    def list_uids(self) -> list[str]:
        """Every object of the tree."""

    @cached_property
    def uids(self) -> list[str]:
        """Every object of the tree, sorted.

        Raises:
            ValueError: there is none.
            UntrustedError: the name of one cannot be that of a file.
        """
        uids = sorted(self.list_uids())
        # Results are written under these names, and lists come from anywhere.
        if bad := next((uid for uid in uids if not can_name_a_file(uid)), None):
            raise UntrustedError(
                f"root: expected uids in {self.root} that can name a file (text, at most {MAX_NAME_BYTES} bytes), got "
                f"{bad!r}; rename it, or leave it out of the list."
            )
        if not uids:
            raise ValueError(f"root: expected at least one object in {self.root} ({self.looks_for}), got none.")
        return uids

    @property
    def key(self) -> str:
        """A name for the tree as it is opened: read in another way, other things are wrong with it."""
        root = self.root.resolve()
        opened = json.dumps([str(root), self.name, self.at_least])
        return f"{root.name}-{sha256(opened.encode()).hexdigest()[:8]}"

    def listed_splits(self) -> dict[str, Split]:
        """The split of the objects that the tree's own lists decide about; a hash of the uid decides for the others."""
        return {}

    @property
    def uids_by_category(self) -> dict[str, list[str]]:
        """The tree's uids per LVIS category; empty where it is not annotated, as all but Objaverse's."""
        return {}

    def select_uids(self, categories: Iterable[str] | None = None, uids: Iterable[str] | None = None) -> list[str]:
        """The objects among the uids, sorted.

        Args:
            categories: None, since only Objaverse is annotated.
            uids: None for every object.

        Raises:
            ValueError: categories, an unknown uid (close matches are named), or nothing is left.
        """
        if categories is not None:
            raise ValueError(f"categories: {self.root} has the format {self.name}, which has none; name uids instead.")
        wanted = set(self.uids if uids is None else uids)
        check_known("uids", wanted, self.uids, f"{len(self.uids)} objects of {self.root}")
        if not wanted:
            raise ValueError(f"uids: expected at least one object of {self.root}, got an empty list.")
        return sorted(wanted)


def check_known(argument: str, wanted: set[str], known: Iterable[str], where: str) -> None:
    """Refuse names that are not known, all at once, naming close ones of the first.

    Args:
        argument: what the names were given as.
        wanted: the names.
        known: all there are.
        where: what they are the names of.

    Raises:
        ValueError: an unknown name.
    """
    if unknown := sorted(wanted - set(known)):
        name, names = unknown[0], sorted(known)
        inside = [other for other in names if name.lower().replace(" ", "_") in other.lower()]
        near = list(dict.fromkeys(difflib.get_close_matches(name, names, n=5) + inside))[:5]
        hint = f"did you mean {', '.join(near)}?" if near else f"for example {', '.join(names[:5]) or 'none'}."
        others = f"{len(unknown)} others: " if unknown[1:] else ""
        shown = ", ".join(map(repr, unknown[:_SHOWN])) + (" ..." if unknown[_SHOWN:] else "")
        raise ValueError(f"{argument}: expected names among the {where}, got {others}{shown}; {hint}")


def read_uids(argument: str, given: list[str] | Path | None) -> list[str] | None:
    """A list of uids, from a file where it is in one: one uid a line, from a tab on a comment, or a JSON array.

    Args:
        argument: what it was given as.
        given: the list, or the file; None for no list.

    Raises:
        ValueError: no such file, another one, or an empty one.
    """
    if not isinstance(given, Path):
        return given
    try:
        text = read_regular(given, MAX_LIST_BYTES).decode()
        uids = parse_json(text) if text.lstrip().startswith("[") else listed_names(text)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{argument}: expected a list, or a file with one uid a line or a JSON array, got {given} ({error})."
        ) from error
    if not uids and argument == "uids":
        raise ValueError(f"uids: expected at least one uid in {given}, got an empty file.")
    return [str(uid) for uid in uids]
