"""Trees of meshes: what a reader says of each object before it is rendered, and plain folders of mesh files."""

import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from os import scandir
from pathlib import Path
from typing import ClassVar, NamedTuple

from ouroboros3d.datamodules.readers.stored import first_files, first_folders, folder_names
from ouroboros3d.datamodules.readers.tree import TreeReader

SUFFIXES = (".glb", ".obj", ".ply")
_NOT_READ = (
    ".gltf",
    ".stl",
    ".fbx",
    ".dae",
    ".off",
    ".usdz",
    ".3mf",
    ".blend",
)  # meshes that a folder may hold besides
_NAMED = 5  # files that are left out, in one line
_log = logging.getLogger(__name__)


class MeshLocation(NamedTuple):
    """Where the mesh of an object is: all that it takes to tell whether it is rendered.

    Args:
        uid: the object's name.
        path: the mesh file.
    """

    uid: str
    path: str


@dataclass(frozen=True)
class Asset:
    """One object of a tree of meshes.

    Args:
        uid: the object's name, unique in the tree.
        path: the mesh file; it may be missing (a partial download).
        categories: LVIS categories, sorted; empty if the object is not annotated.
        license: as the source states it (`cc0`, `by`, ...), `unknown` without metadata.
        name: the object's title, empty without metadata.
        author: its maker, empty without metadata.
        source: the collection it was taken from, empty without metadata.
        z_up: whether the file's world is Z-up; +Y up otherwise, as in glTF.
        own_uid: what the object is called in its tree, where `uid` is a name among several trees; it decides the split.
    """

    uid: str
    path: Path
    categories: tuple[str, ...] = ()
    license: str = "unknown"
    name: str = ""
    author: str = ""
    source: str = ""
    z_up: bool = False
    own_uid: str = ""


class MeshReader(TreeReader):
    """A tree of meshes, which are rendered into the cache."""

    z_up: ClassVar[bool] = False  # the world of all of its files; +Y up otherwise

    @abstractmethod
    def assets(self, uids: list[str]) -> list[Asset]:
        """What the tree knows of these objects, in their order."""

    def files(self, uids: list[str]) -> list[MeshLocation]:
        """Where the meshes of these objects are, in their order, without what else a large tree is slow to tell."""
        return [MeshLocation(asset.uid, str(asset.path)) for asset in self.assets(uids)]

    def select(self, categories: Iterable[str] | None = None, uids: Iterable[str] | None = None) -> list[Asset]:
        """The objects that are in any of the categories and among the uids, sorted by uid.

        Args:
            categories: LVIS categories; None for every object.
            uids: None for every object.

        Raises:
            ValueError: a category or uid that the tree does not have (close matches are named), or nothing is left.
        """
        return self.assets(self.select_uids(categories, uids))


class MeshFolderReader(MeshReader):
    """GLB, OBJ and PLY files in a folder, or one level below it; +Y up, as glTF says and OBJ files mostly are.

    An object is called as its file, or as its folder where that holds this one mesh. Meshes in other formats, and those
    in deeper folders, are left out with a warning that names them.
    """

    name = "meshes"
    looks_for = "*.glb, *.obj or *.ply in the folder or one level below, no list or poses beside them"

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether the folder, or one of its first folders, holds a mesh file and no files of another format."""
        if any((root / name).exists() for name in ("object-paths.json.gz", "metadata.csv")):
            return False
        return any(
            first_files(folder, SUFFIXES) and not (folder / "transforms.json").is_file()
            for folder in (root, *first_folders(root))
        )

    def list_uids(self) -> list[str]:
        """Names from file and folder names.

        Raises:
            ValueError: two meshes would have one name.
        """
        return list(self._paths)

    def assets(self, uids: list[str]) -> list[Asset]:
        """Name and file; a plain folder knows no more."""
        return [Asset(uid, self._paths[uid]) for uid in uids]

    @cached_property
    def _paths(self) -> dict[str, Path]:
        named = [(path.stem, path) for path in _mesh_files(self.root)]
        for folder in folder_names(self.root):
            files = sorted(_mesh_files(self.root / folder))
            named += [(folder if len(files) == 1 else f"{folder}_{path.stem}", path) for path in files]
        twice = [uid for uid, count in Counter(uid for uid, _ in named).items() if count > 1]
        if twice:
            files = [path for uid, path in named if uid == twice[0]]
            raise ValueError(f"root: expected one mesh of a name, got {' and '.join(map(str, files))}; rename one.")
        self._warn_of_others()
        return dict(named)

    def _warn_of_others(self) -> None:
        """Name the meshes of the tree that are no objects of it."""
        folders = [self.root / folder for folder in folder_names(self.root)]
        others = [path for folder in (self.root, *folders) for path in _mesh_files(folder, _NOT_READ)]
        deeper = [path for folder in folders for below in first_folders(folder) for path in _mesh_files(below)]
        for found, why in (
            (others, f"a format that is not read ({', '.join(SUFFIXES)} are); convert them"),
            (deeper, f"folders more than one level below {self.root}; move them up, or name their folder as root"),
        ):
            names = [path.relative_to(self.root).as_posix() for path in sorted(found)]
            if names:
                more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
                _log.warning("root: left out %s%s: in %s.", ", ".join(names[:_NAMED]), more, why)


def _mesh_files(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[Path]:
    if folder.is_dir():
        with scandir(folder) as entries:
            for entry in entries:
                if entry.name.lower().endswith(suffixes) and not entry.name.startswith("."):
                    yield Path(entry.path)
