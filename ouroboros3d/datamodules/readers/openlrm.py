"""OpenLRM's training set (3DTopia/OpenLRM): `<uid>/rgba/000.png`, `<uid>/pose/000.npy`, `<uid>/intrinsics.npy`."""

from pathlib import Path

import numpy as np
import torch

from ouroboros3d.cameras import Cameras, intrinsics
from ouroboros3d.datamodules.readers.arrays import read_npy
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.pixels import image_size
from ouroboros3d.datamodules.readers.posed import PosedObject, PosedReader
from ouroboros3d.datamodules.readers.poses import BLENDER
from ouroboros3d.datamodules.readers.stored import ObjectFiles, first_folders

# The object fills the cube [-1, 1]^3 there and [-0.5, 0.5]^3 here.
SCALE = 0.5


class OpenLRMReader(PosedReader):
    """32 views; 3x4 camera to world with OpenGL axes in a Z-up world; intrinsics in pixels, shared by all views."""

    name = "openlrm"
    looks_for = "<uid>/intrinsics.npy, <uid>/pose/000.npy and <uid>/rgba/000.png"
    promised_views = 32
    stored_poses = BLENDER

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether the first folders hold `intrinsics.npy`, `pose/` and `rgba/`."""
        return any(
            (folder / "intrinsics.npy").is_file() and (folder / "pose/000.npy").is_file()
            for folder in first_folders(root)
        )

    def _read(self, uid: str) -> PosedObject:
        """One object.

        Raises:
            SampleError: a missing view, intrinsics of another size than the images, or a broken pose.
        """
        files = ObjectFiles(uid, self.root / uid)
        count = files.numbered(("rgba/{0:03d}.png", "pose/{0:03d}.npy"), self.at_least)
        images = tuple(files.file(f"rgba/{view:03d}.png") for view in range(count))
        poses = [read_npy(files, f"pose/{view:03d}.npy").astype(np.float64) for view in range(count)]
        if any(pose.shape not in ((3, 4), (4, 4)) for pose in poses):
            raise SampleError(f"{uid}: expected poses [3, 4], got {sorted({pose.shape for pose in poses})}.")
        for pose in poses:
            pose[:3, 3] *= SCALE
        stored = read_npy(files, "intrinsics.npy")
        height, width = image_size(uid, images[0])
        if stored.shape != (3, 2) or tuple(stored[2]) != (width, height):
            raise SampleError(
                f"{uid}: expected rows [fx fy], [cx cy], [{width} {height}] in {files.file('intrinsics.npy')}, got "
                f"{stored.tolist()}."
            )
        (fx, fy), (cx, cy) = torch.from_numpy(stored[:2].astype(np.float64) / [width, height])
        matrix = intrinsics(fx.expand(count), fy.expand(count), cx, cy).float()
        c2w = self.c2w_opencv(uid, poses)
        return PosedObject(uid, Cameras(c2w, matrix), images, (height, width))
