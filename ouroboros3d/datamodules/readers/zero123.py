"""Zero123's renders (cvlab-columbia/zero123): `<uid>/000.png` and `<uid>/000.npy`, `valid_paths.json` in the root."""

from pathlib import Path

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.readers.arrays import read_npy
from ouroboros3d.datamodules.readers.pixels import image_size
from ouroboros3d.datamodules.readers.posed import PosedObject, PosedReader, read_listed
from ouroboros3d.datamodules.readers.poses import BLENDER_FOCAL, Convention, focal_angle, pinhole
from ouroboros3d.datamodules.readers.stored import ObjectFiles, first_folders, folder_names
from ouroboros3d.datamodules.splits import Split

LIST = "valid_paths.json"


class Zero123Reader(PosedReader):
    """12 views at distances of their own; 3x4 world to camera with OpenGL axes in a Z-up world."""

    name = "zero123"
    looks_for = "<uid>/000.png and <uid>/000.npy, no metadata.json beside them"
    promised_views = 12
    stored_poses = Convention("w2c", "opengl", "z_up")

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether the first folders hold numbered poses beside the images and no `metadata.json`."""
        return any(
            (folder / "000.npy").is_file()
            and (folder / "000.png").is_file()
            and not (folder / "metadata.json").is_file()
            for folder in first_folders(root)
        )

    def list_uids(self) -> list[str]:
        """The objects of `valid_paths.json`, or every folder where there is no such list."""
        return read_listed(self.root / LIST, "array") if (self.root / LIST).is_file() else folder_names(self.root)

    def absent(self) -> frozenset[str]:
        """Those of `valid_paths.json` without a folder."""
        return frozenset(self.uids).difference(folder_names(self.root))

    def listed_splits(self) -> dict[str, Split]:
        """The last 1 % of the list validates, as in Zero123's own training; it has no test objects of its own."""
        if not (self.root / LIST).is_file():
            return {}
        listed = read_listed(self.root / LIST, "array")
        return dict.fromkeys(listed[len(listed) * 99 // 100 :], "val")

    def _read(self, uid: str) -> PosedObject:
        """One object; Zero123's own loader puts another one in the place of a broken one, this one does not.

        Raises:
            SampleError: one of the 12 views is missing, or a pose makes no sense.
        """
        return read_numbered_poses(self, ObjectFiles(uid, self.root / uid), "")


def read_numbered_poses(reader: PosedReader, files: ObjectFiles, prefix: str) -> PosedObject:
    """Views `000.png` with poses `000.npy`.

    Args:
        reader: knows how poses are stored, and how many views there are at least.
        files: of the object.
        prefix: of every name, with its slash.

    Raises:
        SampleError: a view is missing, or a pose makes no sense.
    """
    count = files.numbered([prefix + "{0:03d}.png", prefix + "{0:03d}.npy"], reader.at_least)
    images = tuple(files.file(f"{prefix}{view:03d}.png") for view in range(count))
    poses = [read_npy(files, f"{prefix}{view:03d}.npy") for view in range(count)]
    size = image_size(files.uid, images[0])
    c2w = reader.c2w_opencv(files.uid, poses)
    return PosedObject(
        files.uid, Cameras(c2w, pinhole(files.uid, [focal_angle(BLENDER_FOCAL)] * count, size)), images, size
    )
