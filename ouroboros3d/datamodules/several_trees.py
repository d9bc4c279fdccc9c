"""Several trees at once: every object under a name of its own, in one split, however many of the trees have it."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from filecmp import cmp
from functools import cached_property
from pathlib import Path
from typing import Any

from ouroboros3d.datamodules.left_out import LeftOut
from ouroboros3d.datamodules.orbits.true_geometry import TrueGeometry
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.meshes import Asset, MeshReader
from ouroboros3d.datamodules.readers.posed import PosedObject, PosedReader
from ouroboros3d.datamodules.readers.tree import check_known
from ouroboros3d.datamodules.sources import Source
from ouroboros3d.datamodules.splits import SPLITS, Split
from ouroboros3d.datamodules.untrusted import MAX_NAME_BYTES, can_name_a_file

log = logging.getLogger(__name__)

Tree = MeshReader | PosedReader
_BETWEEN = "--"  # of a tree's name and a uid: allowed in file names, tar members and shells alike


class SeveralTrees(Source):
    """The objects of several trees, in any order of these.

    A name is the uid where no other tree has it, else the tree's folder and the uid: `furniture--chair`. The cache,
    results and lists know an object by its name; a uid in a list stands for the objects of all trees that have it. The
    split is the uid's, so that what is held out in one tree is held out in all.

    Args:
        trees: their readers.
        opened: makes the source of a tree from it and the uids of its objects by their names.

    Raises:
        ValueError: a name that no file can have, or that two objects would have.
    """

    def __init__(self, trees: Sequence[Tree], opened: Callable[[Tree, Mapping[str, str]], Source]) -> None:
        named = named_apart(trees)
        self._sources = [opened(tree, uids) for tree, uids in named]
        self._source_of = {
            name: source for source, (_, uids) in zip(self._sources, named, strict=True) for name in uids
        }
        self._uid_of = {name: uid for _, uids in named for name, uid in uids.items()}
        self._trees = [tree for tree, _ in named]

    @property
    def where(self) -> str:
        """The trees."""
        return " and ".join(source.where for source in self._sources)

    @cached_property
    def known(self) -> Collection[str]:
        """Every name, and every uid."""
        return self._uid_of.keys() | set(self._uid_of.values())

    def select(self, categories: Iterable[str] | None = None, uids: Iterable[str] | None = None) -> list[str]:
        """As of one tree. What any of the trees says of an object's categories counts for it in all of them.

        Raises:
            ValueError: a category or uid that is not known (close matches are named), or nothing is left.
        """
        chosen = self._uid_of
        if uids is not None:
            wanted = set(uids)
            check_known("uids", wanted, self.known, f"{len(self._uid_of)} objects of {self.where}")
            chosen = {name: uid for name, uid in chosen.items() if name in wanted or uid in wanted}
        if categories is not None:
            members = self._in_any_of(set(categories))
            chosen = {name: uid for name, uid in chosen.items() if uid in members}
        if not chosen:
            raise ValueError(
                f"expected at least one object of {self.where} in these categories and among these uids, got none; "
                "leave one of the two filters out."
            )
        return sorted(chosen)

    def _in_any_of(self, categories: set[str]) -> set[str]:
        by_category: dict[str, set[str]] = {}
        for tree in self._trees:
            for category, uids in tree.uids_by_category.items():
                by_category.setdefault(category, set()).update(uids)
        if not by_category:
            raise ValueError(f"categories: expected a tree that has any, got {self.where}; name uids instead.")
        check_known("categories", categories, by_category, f"{len(by_category)} LVIS categories of {self.where}")
        return set().union(*(by_category[category] for category in categories))

    def uid(self, name: str) -> str:
        """What an object is called in its tree."""
        return self._uid_of[name]

    def listed_splits(self) -> dict[str, Split]:
        """What lists of any of the trees say, by uid; where two say different things, the one that holds out more."""
        splits: dict[str, Split] = {}
        for source in self._sources:
            for uid, split in source.listed_splits().items():
                splits[uid] = max(split, splits.get(uid, split), key=SPLITS.index)
        return splits

    def _shares(self, names: Iterable[str]) -> Iterator[tuple[Source, list[str]]]:
        """The sources of objects, and which of them are theirs, in the same order."""
        shares: dict[Source, list[str]] = {source: [] for source in self._sources}
        for name in names:
            shares[self._source_of[name]].append(name)
        yield from ((source, share) for source, share in shares.items() if share)

    def assets(self, names: Sequence[str]) -> list[Asset]:
        """The meshes of all trees, tree by tree."""
        return [asset for source, share in self._shares(names) for asset in source.assets(share)]

    def prepare(self, names: Sequence[str], tested: Sequence[str], surface_points: int) -> None:
        """Prepare the objects of one tree after another, each tree its own.

        Raises:
            ValueError: rendering cannot work at all, or the cache cannot be written.
        """
        of_test = dict(self._shares(tested))
        for source, share in self._shares(names):
            source.prepare(share, of_test.get(source, []), surface_points)

    def left_out(
        self, asked_for: Mapping[Split, Sequence[str]], tested: Split | None, surface_points: int
    ) -> dict[str, LeftOut]:
        """What the trees leave out, all together.

        Raises:
            ValueError: `prepare` has not run.
        """
        shares = {split: dict(self._shares(names)) for split, names in asked_for.items()}
        found: dict[str, LeftOut] = {}
        for source in self._sources:
            share = {split: shares[split].get(source, []) for split in shares}
            if any(share.values()):
                found |= source.left_out(share, tested, surface_points)
        return found

    def refuse_failed_check(self, used: Collection[str]) -> None:
        """Refuse what the verdict on any tree that is used refuses.

        Raises:
            ValueError: one of them failed.
        """
        for source, share in self._shares(used):
            source.refuse_failed_check(share)

    def true_points(self, names: Sequence[str], surface_points: int, image_size: int) -> int:
        """`surface_points` where the objects of every tree carry them, else 0: a mean over some would mislead."""
        return min(source.true_points(share, surface_points, image_size) for source, share in self._shares(names))

    def has_depth(self, names: Sequence[str]) -> bool:
        """Whether every tree's objects have it."""
        return all(source.has_depth(share) for source, share in self._shares(names))

    def object(self, name: str) -> PosedObject:
        """Cameras and files of an object.

        Raises:
            SampleError: as its source.
        """
        return self._source_of[name].object(name)

    def true_geometry(self, name: str, surface_points: int) -> TrueGeometry:
        """The true geometry of an object.

        Raises:
            SampleError: as its source.
        """
        return self._source_of[name].true_geometry(name, surface_points)

    def list_unreadable(self, name: str, error: SampleError) -> Path:
        """Put an object on the list of the tree that it is of.

        Raises:
            SampleError: as its source.
        """
        return self._source_of[name].list_unreadable(name, error)

    def listed(self, names: Sequence[str]) -> dict[str, LeftOut]:
        """What the lists of all trees say."""
        found: dict[str, LeftOut] = {}
        for source, share in self._shares(names):
            found |= source.listed(share)
        return found

    def protocol(self, names: Sequence[str], left_out: Collection[str]) -> dict[str, Any]:
        """The trees' own taken together: one hash of theirs, and ranges over all of their cameras."""
        parts = [source.protocol(share, left_out) for source, share in self._shares(names)]
        together = {key: _together([part[key] for part in parts if key in part]) for part in parts for key in part}
        if len(parts) > 1:
            hashes = "\n".join(part["data_sha256"] for part in parts)
            together["data_sha256"] = hashlib.sha256(hashes.encode()).hexdigest()
        return together


def _together(values: list[Any]) -> Any:  # noqa: ANN401 - of a protocol
    """One value for all, the strings one after another, or the lowest and the highest of numbers and ranges."""
    if all(value == values[0] for value in values):
        return values[0]
    if isinstance(values[0], str):
        return ", ".join(sorted(set(values)))
    numbers = [number for value in values for number in (value if isinstance(value, list) else [value])]
    return [min(numbers), max(numbers)]


def named_apart(trees: Sequence[Tree]) -> list[tuple[Tree, dict[str, str]]]:
    """Trees, sorted by their names, each with the uids of its objects by names that no two objects share.

    Meshes with the same uid and the same content are one object, that of the first tree: the copy has no name.

    Args:
        trees: at least two.

    Raises:
        ValueError: a name that no file can have, or that two objects would have.
    """
    called = _tree_names(trees)
    trees = sorted(trees, key=called.__getitem__)
    listed = [tree.select_uids() for tree in trees]
    times = Counter(uid for uids in listed for uid in uids)
    copies = _copies(trees, [[uid for uid in uids if times[uid] > 1] for uids in listed])
    kept = [[uid for uid in uids if (tree, uid) not in copies] for tree, uids in zip(trees, listed, strict=True)]
    times = Counter(uid for uids in kept for uid in uids)

    def name(tree: Tree, uid: str) -> str:
        return uid if times[uid] == 1 else f"{called[tree]}{_BETWEEN}{uid}"

    held = Counter(name(tree, uid) for tree, uids in zip(trees, kept, strict=True) for uid in uids)
    for found, holders in held.items():
        if holders > 1 or (_BETWEEN in found and not can_name_a_file(found)):
            raise ValueError(
                f"root: expected a name of its own for every object, of at most {MAX_NAME_BYTES} bytes, got {found!r} "
                f"for {holders} in {' and '.join(str(tree.root) for tree in trees)}; rename the folder of its tree."
            )
    apart = [found for found in held if found not in times]
    log.info(
        "%d objects in %d trees; %d copies of the same mesh are not counted, %d objects share a uid with others and "
        "are named by their tree%s",
        len(held),
        len(trees),
        len(copies),
        len(apart),
        f", such as {apart[0]}" if apart else "",
    )
    return [(tree, {name(tree, uid): uid for uid in uids}) for tree, uids in zip(trees, kept, strict=True)]


def _tree_names(trees: Sequence[Tree]) -> dict[Tree, str]:
    """The folder of each, with more of it where several are called the same."""
    folders = [tree.root.resolve().name.lstrip(".") for tree in trees]  # no name may begin with a dot
    return {
        tree: folder if folders.count(folder) == 1 else tree.key.lstrip(".")
        for tree, folder in zip(trees, folders, strict=True)
    }


def _copies(trees: Sequence[Tree], uids: Sequence[Sequence[str]]) -> set[tuple[Tree, str]]:
    """Which of these meshes of the trees a tree before holds too, under the same uid."""
    before: dict[str, list[tuple[str, bool]]] = {}
    copies: set[tuple[Tree, str]] = set()
    for tree, shared in zip(trees, uids, strict=True):
        if not isinstance(tree, MeshReader):
            continue  # nothing says whether two renders are of one mesh
        for uid, path in tree.files(list(shared)):
            others = before.setdefault(uid, [])
            # The same file shows another object where it is read with another axis up.
            if any(z_up == tree.z_up and _same(path, other) for other, z_up in others):
                copies.add((tree, uid))
            else:
                others.append((path, tree.z_up))
    return copies


def _same(one: str, other: str) -> bool:
    try:
        return cmp(one, other, shallow=False)
    except OSError:
        return False  # who renders it says that it cannot be read
