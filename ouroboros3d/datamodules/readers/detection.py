"""Which format a tree has: every reader is asked, and exactly one must recognise it."""

from pathlib import Path
from typing import get_args

from ouroboros3d.datamodules.readers.bpy_renderer import BpyRendererReader
from ouroboros3d.datamodules.readers.gobjaverse import GObjaverseReader
from ouroboros3d.datamodules.readers.google_scanned_objects import GoogleScannedObjectsReader
from ouroboros3d.datamodules.readers.instantmesh import InstantMeshReader
from ouroboros3d.datamodules.readers.lgm import LGMReader
from ouroboros3d.datamodules.readers.meshes import MeshFolderReader, MeshReader
from ouroboros3d.datamodules.readers.names import MESH_READERS, ReaderName
from ouroboros3d.datamodules.readers.objaverse import ObjaverseReader
from ouroboros3d.datamodules.readers.objaverse_rendering import ObjaverseRenderingReader
from ouroboros3d.datamodules.readers.objaverse_xl import ObjaverseXLReader
from ouroboros3d.datamodules.readers.openlrm import OpenLRMReader
from ouroboros3d.datamodules.readers.ouroboros3d import Ouroboros3DReader
from ouroboros3d.datamodules.readers.posed import PosedReader
from ouroboros3d.datamodules.readers.shards import ShardReader
from ouroboros3d.datamodules.readers.stored import first_folders
from ouroboros3d.datamodules.readers.syncdreamer import SyncDreamerGSOReader
from ouroboros3d.datamodules.readers.trellis import TrellisReader
from ouroboros3d.datamodules.readers.zero123 import Zero123Reader

_READERS: tuple[type[MeshReader] | type[PosedReader], ...] = (
    ObjaverseReader,
    MeshFolderReader,
    GoogleScannedObjectsReader,
    Ouroboros3DReader,
    ShardReader,
    BpyRendererReader,
    ObjaverseXLReader,
    ObjaverseRenderingReader,
    Zero123Reader,
    GObjaverseReader,
    LGMReader,
    OpenLRMReader,
    InstantMeshReader,
    TrellisReader,
    SyncDreamerGSOReader,
)
READERS: dict[str, type[MeshReader] | type[PosedReader]] = {reader.name: reader for reader in _READERS}
assert tuple(READERS) == get_args(ReaderName)
assert MESH_READERS == tuple(name for name, reader in READERS.items() if issubclass(reader, MeshReader))


def open_tree(
    root: Path,
    reader: ReaderName | None = None,
    views_per_object: int | None = None,
    assume_rig: bool = False,
) -> MeshReader | PosedReader:
    """The reader of a tree.

    Args:
        root: the tree.
        reader: its format; None to find out.
        views_per_object: how many views each object has at least; None for the number that the format promises.
        assume_rig: take views without cameras for those of objaverse-rendering's defaults.

    Raises:
        ValueError: no such folder, no format or several match, or the format needs `assume_rig`.
    """
    if not root.is_dir():
        raise ValueError(
            f"root: expected a folder with meshes or posed renders, got {root}, which "
            f"{'is a file' if root.exists() else 'does not exist'}; leave root out for the bundled objects."
        )
    kind = READERS[reader or _only(root)]
    if issubclass(kind, ObjaverseRenderingReader):
        return kind(root, views_per_object, assume_rig)
    return kind(root, views_per_object) if issubclass(kind, PosedReader) else kind(root)


def _only(root: Path) -> str:
    matching = [name for name, reader in READERS.items() if reader.matches(root)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise ValueError(
            f"root: expected one format in {root}, got signs of {' and '.join(matching)}; say which with "
            f"reader ({' or '.join(matching)})."
        )
    near = [str(folder) for folder in (root.parent, *first_folders(root)) if any(r.matches(folder) for r in _READERS)]
    hint = f"did you mean {near[0]}? " if near else ""
    looked_for = "; ".join(f"{name}: {reader.looks_for}" for name, reader in READERS.items())
    raise ValueError(f"root: expected a known format in {root}, found none; {hint}looked for {looked_for}.")
