"""Which trees a run is about, and which of their objects, in which split."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ouroboros3d.datamodules.readers.tree import read_uids
from ouroboros3d.datamodules.sources import Source
from ouroboros3d.datamodules.splits import SPLITS, Split, split_of

log = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent / "bundled"


@dataclass(kw_only=True)
class Selection:
    """The objects of a source that a run is about.

    Args:
        categories: of LVIS, of any of which an object is; None for all.
        uids: a list of objects, or a file of one; None for all.
        skip_uids: those to leave out, likewise.
        test_uids: those of the test objects that are tested, likewise.
        max_objects: at most so many of each split; None for all.
        val_fraction: share of the uids that validate.
        test_fraction: share of the uids that test.

    Raises:
        ValueError: shares of no split, or no object at all.
    """

    categories: list[str] | None
    uids: list[str] | Path | None
    skip_uids: list[str] | Path | None
    test_uids: list[str] | Path | None
    max_objects: int | None
    val_fraction: float
    test_fraction: float
    _skipped: frozenset[str] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the ranges once."""
        if not (self.val_fraction >= 0 and self.test_fraction >= 0 and self.val_fraction + self.test_fraction < 1):
            raise ValueError(
                f"val_fraction, test_fraction: expected shares >= 0 with a sum below 1, got {self.val_fraction:g} and "
                f"{self.test_fraction:g}."
            )
        if self.max_objects is not None and self.max_objects < 1:
            raise ValueError(f"max_objects: expected at least 1, got {self.max_objects}.")

    def of(self, source: Source) -> dict[Split, list[str]]:
        """The names of the selected objects of each split, sorted, whether they can be rendered and read or not.

        Args:
            source: that they are objects of.

        Raises:
            ValueError: an unknown category or uid, a broken list, or nothing left.
        """
        chosen = source.select(self.categories, read_uids("uids", self.uids))
        listed = source.listed_splits()
        of_split: dict[Split, list[str]] = {split: [] for split in SPLITS}
        skipped = self._named_to_skip(source)
        for name in chosen:
            uid = source.uid(name)
            if name not in skipped and uid not in skipped:
                of_split[listed.get(uid) or split_of(uid, self.val_fraction, self.test_fraction)].append(name)
        if (tested := read_uids("test_uids", self.test_uids)) is not None:
            of_split["test"] = _among(source, set(tested), of_split["test"])
        return {split: names[: self.max_objects] for split, names in of_split.items()}

    def _named_to_skip(self, source: Source) -> frozenset[str]:
        """Read once, and names that are none said once."""
        if self._skipped is None:
            self._skipped = frozenset(read_uids("skip_uids", self.skip_uids) or ())
            if unknown := sorted(self._skipped.difference(source.known) if self._skipped else ()):
                log.warning(
                    "skip_uids: %d of %d names are no objects of %s: %s%s",
                    len(unknown),
                    len(self._skipped),
                    source.where,
                    ", ".join(map(repr, unknown[:3])),
                    " ..." if len(unknown) > 3 else "",
                )
        return self._skipped


def _among(source: Source, uids: set[str], names: list[str]) -> list[str]:
    """The test objects of these names that are among the uids.

    Raises:
        ValueError: a uid that is no test object, so perhaps one that is trained on.
    """
    chosen = [name for name in names if name in uids or source.uid(name) in uids]
    if unknown := sorted(uids.difference(chosen, map(source.uid, chosen))):
        raise ValueError(
            f"test_uids: expected test objects of {source.where}, got {len(unknown)} others of {len(uids)}, "
            f"{', '.join(map(repr, unknown[:3]))}; take them off the list, or test the trees that it was made for."
        )
    return chosen


def trees_of(root: list[Path] | Path | None) -> list[Path]:
    """The trees that a root names, each once.

    Args:
        root: a tree or several, of which `bundled` names the objects that come with the package; None for these.

    Raises:
        ValueError: none, one twice, or `bundled` could be a folder.
    """
    given = [BUNDLED] if root is None else [Path(one) for one in root] if isinstance(root, list) else [Path(root)]
    if not given:
        raise ValueError("root: expected at least one tree, got an empty list; leave root out for the bundled objects.")
    bundled = Path("bundled")
    if bundled in given and bundled.exists():
        raise ValueError(
            "root: expected bundled to name the objects that come with the package, got a folder of this name beside "
            f"them; write {bundled.resolve()} for the folder, or work elsewhere."
        )
    roots = [BUNDLED if one == bundled else one for one in given]
    twice = [one for one, count in Counter(one.resolve() for one in roots).items() if count > 1]
    if twice:
        raise ValueError(f"root: expected each tree once, got {twice[0]} twice.")
    return roots
