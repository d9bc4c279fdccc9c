"""Google Scanned Objects as downloaded: `<Name>/meshes/model.obj`, `<Name>/metadata.pbtxt`, textures elsewhere."""

from pathlib import Path

from ouroboros3d.datamodules.readers.meshes import Asset, MeshReader
from ouroboros3d.datamodules.readers.stored import first_folders

_MESH = "meshes/model.obj"


class GoogleScannedObjectsReader(MeshReader):
    """Scans in metres, Z-up, under CC-BY 4.0; every object has the same file names, so its folder names it."""

    name = "google_scanned_objects"
    looks_for = "<Name>/meshes/model.obj and <Name>/metadata.pbtxt"
    z_up = True

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether the first folders hold `meshes/model.obj` and `metadata.pbtxt`."""
        return any((f / _MESH).is_file() and (f / "metadata.pbtxt").is_file() for f in first_folders(root))

    def list_uids(self) -> list[str]:
        """Every folder with a mesh."""
        return [path.parents[1].name for path in self.root.glob(f"*/{_MESH}")]

    def assets(self, uids: list[str]) -> list[Asset]:
        """Name, file and the collection's licence."""
        source = "Google Scanned Objects"
        return [
            Asset(uid, self.root / uid / _MESH, license="by", name=uid, source=source, z_up=self.z_up) for uid in uids
        ]
