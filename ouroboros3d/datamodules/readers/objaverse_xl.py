"""Objaverse-XL's renders (allenai/objaverse-xl): `<uid>.zip` or `<uid>/`, with `metadata.json` beside the views."""

from os import scandir
from pathlib import Path

from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.posed import PosedObject, PosedReader, read_json
from ouroboros3d.datamodules.readers.stored import ObjectFiles, first_files, first_folders, folder_names
from ouroboros3d.datamodules.readers.zero123 import Zero123Reader, read_numbered_poses


class ObjaverseXLReader(PosedReader):
    """12 views with poses as Zero123's, read straight from the zip files."""

    name = "objaverse_xl"
    looks_for = "<uid>.zip, or <uid>/ with metadata.json, 000.png and 000.npy"
    promised_views = 12
    stored_poses = Zero123Reader.stored_poses

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether one of the first entries is a zip file or a folder with `metadata.json` and poses."""
        if any((f / "metadata.json").is_file() and (f / "000.npy").is_file() for f in first_folders(root)):
            return True
        return bool(first_files(root, (".zip",)))

    def list_uids(self) -> list[str]:
        """Every zip file and every folder."""
        with scandir(self.root) as entries:
            zips = [Path(entry.name).stem for entry in entries if entry.name.endswith(".zip")]
        return sorted({*zips, *folder_names(self.root)})

    def _read(self, uid: str) -> PosedObject:
        """One object.

        Raises:
            SampleError: fewer than 12 views, a missing one, a pose that makes no sense; or the render is none of the
                object as its maker made it: textures were missing, or an animation was frozen somewhere.
        """
        folder = self.root / uid
        files = ObjectFiles(uid, folder if folder.is_dir() else self.root / f"{uid}.zip")
        name = min((name for name in files.names if name.endswith("metadata.json")), key=len, default="metadata.json")
        metadata = read_json(files, name)
        missing = metadata.get("missing_textures") or {}
        if isinstance(missing, dict) and missing.get("count"):
            raise SampleError(f"{uid}: expected every texture, got {missing['count']} missing ones ({files.path}).")
        if metadata.get("animation_count"):
            raise SampleError(f"{uid}: expected no animation, got {metadata['animation_count']} ({files.path}).")
        return read_numbered_poses(self, files, name.removesuffix("metadata.json"))
