"""Where the views of objects come from: all that the data module and the datasets ask for, whatever lies behind it.

Behind it is a tree of meshes (`rendered_meshes.py`), one of posed renders (`posed_renders.py`), or several of both
(`several_trees.py`). An object has a uid in its tree and a name among all objects of a run; the two differ only where
several trees have the same uid.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ouroboros3d.datamodules.left_out import LeftOut
from ouroboros3d.datamodules.orbits.true_geometry import TrueGeometry
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.meshes import Asset, MeshReader
from ouroboros3d.datamodules.readers.posed import PosedObject, PosedReader
from ouroboros3d.datamodules.splits import Split

# Objects whose cameras are remembered: some kilobytes each.
_OPEN_OBJECTS = 4096


class Source(ABC):
    """Objects with posed views, known by their names."""

    @property
    @abstractmethod
    def where(self) -> str:
        """The tree or trees, for messages."""

    @property
    @abstractmethod
    def known(self) -> Collection[str]:
        """The names by which a list may call the objects."""

    @abstractmethod
    def select(self, categories: Iterable[str] | None = None, uids: Iterable[str] | None = None) -> list[str]:
        """The names of the objects that are in any of the categories and among the uids, sorted.

        Args:
            categories: LVIS categories; None for every object.
            uids: None for every object.

        Raises:
            ValueError: a category or uid that is not known (close matches are named), or nothing is left.
        """

    @abstractmethod
    def uid(self, name: str) -> str:
        """What an object is called in its tree, which decides its split."""

    @abstractmethod
    def listed_splits(self) -> dict[str, Split]:
        """The split of the objects that lists of the trees decide about, by uid; a hash decides for the others."""

    @abstractmethod
    def assets(self, names: Sequence[str]) -> list[Asset]:
        """What is known of those of the objects that are meshes."""

    @abstractmethod
    def prepare(self, names: Sequence[str], tested: Sequence[str], surface_points: int) -> None:
        """Make views of objects, and give those another chance that failed before, if that was asked for.

        Args:
            names: every object.
            tested: those that need points of their true surface too.
            surface_points: how many; 0 = none.

        Raises:
            ValueError: rendering cannot work at all, or the cache cannot be written.
        """

    @abstractmethod
    def left_out(
        self, asked_for: Mapping[Split, Sequence[str]], tested: Split | None, surface_points: int
    ) -> dict[str, LeftOut]:
        """Which of the objects are left out, as far as is known now, and why.

        Args:
            asked_for: the objects of each split.
            tested: the split that is about to be tested, whose objects are all opened; None for a training.
            surface_points: of its true surfaces; 0 = none.

        Raises:
            ValueError: `prepare` has not run.
        """

    @abstractmethod
    def refuse_failed_check(self, used: Collection[str]) -> None:
        """What check-data found of whole trees counts: wrong cameras would cost a training, and show in numbers only.

        Args:
            used: the objects that are trained on.

        Raises:
            ValueError: a tree of theirs failed.
        """

    @abstractmethod
    def true_points(self, names: Sequence[str], surface_points: int, image_size: int) -> int:
        """`surface_points` where all of the objects carry so many at that size of their views, else 0."""

    @abstractmethod
    def has_depth(self, names: Sequence[str]) -> bool:
        """Whether all of the objects come with the depth of their views, and it can be read here."""

    @abstractmethod
    def object(self, name: str) -> PosedObject:
        """Cameras and files of an object, as stored.

        Raises:
            SampleError: a view or camera is missing or makes no sense.
        """

    @abstractmethod
    def true_geometry(self, name: str, surface_points: int) -> TrueGeometry:
        """The true geometry of an object.

        Raises:
            SampleError: it was not written, or is broken.
        """

    @abstractmethod
    def list_unreadable(self, name: str, error: SampleError) -> Path:
        """Put an object on the list of those that cannot be read, which later runs respect.

        Returns:
            the list.

        Raises:
            SampleError: no object is to blame, or the same command makes its views again.
        """

    @abstractmethod
    def listed(self, names: Sequence[str]) -> dict[str, LeftOut]:
        """Those of the objects that are on the list of what cannot be read by now."""

    @abstractmethod
    def protocol(self, names: Sequence[str], left_out: Collection[str]) -> dict[str, Any]:
        """`data_sha256`, of what objects look like, `resize_filter`, and the cameras if any can be read.

        Args:
            names: the objects, sorted.
            left_out: what cannot be read of them.
        """


class OneTree(Source):
    """The objects of one tree.

    Args:
        tree: its reader.
        uids: of its objects by their names; None where every object is called by its uid.
    """

    def __init__(self, tree: MeshReader | PosedReader, uids: Mapping[str, str] | None) -> None:
        self.tree = tree
        self._uids = uids
        self._opened: dict[str, PosedObject] = {}

    @property
    def where(self) -> str:
        """The tree."""
        return str(self.tree.root)

    @property
    def known(self) -> Collection[str]:
        """Every uid of the tree."""
        return self.tree.uids

    def select(self, categories: Iterable[str] | None = None, uids: Iterable[str] | None = None) -> list[str]:
        """The objects that the reader selects."""
        return self.tree.select_uids(categories, uids)

    def uid(self, name: str) -> str:
        """What an object is called in the tree."""
        return name if self._uids is None else self._uids[name]

    def listed_splits(self) -> dict[str, Split]:
        """What the tree's own lists say."""
        return self.tree.listed_splits()

    def object(self, name: str) -> PosedObject:
        """Cameras and files of an object, read once.

        Raises:
            SampleError: as the reader.
        """
        if name not in self._opened:
            if len(self._opened) >= _OPEN_OBJECTS:
                self._opened.clear()
            self._opened[name] = self._read(name)
        return self._opened[name]

    @abstractmethod
    def _read(self, name: str) -> PosedObject:
        """Read from the files what `object` returns and remembers."""
