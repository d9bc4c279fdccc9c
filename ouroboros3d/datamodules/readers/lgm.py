"""LGM's training set (3DTopia/LGM): `<uid>/rgb/000.png` and `<uid>/pose/000.txt`."""

import math
from pathlib import Path

import numpy as np

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.pixels import image_size
from ouroboros3d.datamodules.readers.posed import PosedObject, PosedReader
from ouroboros3d.datamodules.readers.poses import Convention, pinhole
from ouroboros3d.datamodules.readers.stored import ObjectFiles, first_folders
from ouroboros3d.datamodules.untrusted import MAX_DESCRIPTION_BYTES, reraise_as

FOV_DEG = 49.1
# The near-horizontal views, of which LGM takes its inputs.
_RING = tuple(range(36, 73))


class LGMReader(PosedReader):
    """100 views; camera to world in a Blender world with OpenCV axes, 16 floats row by row."""

    name = "lgm"
    looks_for = "<uid>/rgb/000.png and <uid>/pose/000.txt"
    promised_views = 100
    stored_poses = Convention("c2w", "opencv", "z_up")

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether the first folders hold `rgb/` and `pose/`."""
        return any(
            (folder / "rgb/000.png").is_file() and (folder / "pose/000.txt").is_file() for folder in first_folders(root)
        )

    def _read(self, uid: str) -> PosedObject:
        """One object; LGM's own loader repeats the last view in place of missing ones, this one does not.

        Raises:
            SampleError: a missing view or a broken pose.
        """
        files = ObjectFiles(uid, self.root / uid)
        count = files.numbered(("rgb/{0:03d}.png", "pose/{0:03d}.txt"), self.at_least)
        images = tuple(files.file(f"rgb/{view:03d}.png") for view in range(count))
        size = image_size(uid, images[0])
        poses = [_pose(files, f"pose/{view:03d}.txt") for view in range(count)]
        c2w = self.c2w_opencv(uid, poses)
        cameras = Cameras(c2w, pinhole(uid, [math.radians(FOV_DEG)] * count, size))
        return PosedObject(uid, cameras, images, size, (_RING,) if count > _RING[-1] else ())


def _pose(files: ObjectFiles, name: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    with reraise_as(SampleError, f"{files.uid}: expected 16 numbers in {files.file(name)}"):
        return np.array(files.read(name, MAX_DESCRIPTION_BYTES).split(), dtype=np.float64).reshape(4, 4)
