"""InstantMesh's training set (TencentARC/InstantMesh): `rendering_random_32views/<uid>/000.png` and `cameras.npz`."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras, y_up_from_z_up
from ouroboros3d.datamodules.readers.arrays import read_npz
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.pixels import image_size, levels
from ouroboros3d.datamodules.readers.posed import PosedObject, PosedReader
from ouroboros3d.datamodules.readers.poses import Convention, pinhole
from ouroboros3d.datamodules.readers.stored import ObjectFiles, first_folders, folder_names
from ouroboros3d.datamodules.untrusted import MAX_LIST_BYTES, UntrustedError, parse_json, read_regular, reraise_as

FOV_DEG = 50.0
SCALE = 0.5  # the object fills the cube [-1, 1]^3 there
_DEPTH_REACH = 6.0  # of 255 steps, in units of that cube
_RANDOM, _PLUS = "rendering_random_32views", "rendering_zero123plus"
_LIST = "filtered_obj_name.json"


class InstantMeshReader(PosedReader):
    """32 views; 3x4 world to camera with OpenGL axes in a Z-up world.

    Depth has steps of 0.012 scene units: fit for a look, not for geometry metrics.
    """

    name = "instantmesh"
    looks_for = f"[{_RANDOM}/]<uid>/cameras.npz and 000.png"
    promised_views = 32
    stored_poses = Convention("w2c", "opengl", "z_up")

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether the folder, or its `rendering_random_32views`, holds objects with `cameras.npz`."""
        return (root / _PLUS).is_dir() or any(
            (folder / "cameras.npz").is_file() for place in (root / _RANDOM, root) for folder in first_folders(place)
        )

    @property
    def _views(self) -> Path:
        return self.root / _RANDOM if (self.root / _RANDOM).is_dir() else self.root

    def list_uids(self) -> list[str]:
        """The `good_objs` of the filter's list, or every folder where there is no list.

        Raises:
            ValueError: the list is broken, or there are only the views of `rendering_zero123plus`, which have no poses.
        """
        if (self.root / _PLUS).is_dir() and not (self.root / _RANDOM).is_dir():
            raise ValueError(
                f"root: expected {_RANDOM}/ in {self.root}, got {_PLUS}/ alone, whose views have no stored poses."
            )
        for path in (self.root / _LIST, self.root.parent / _LIST):
            if path.is_file():
                with reraise_as(UntrustedError, f"{path}: expected a list good_objs"):
                    return [str(uid) for uid in parse_json(read_regular(path, MAX_LIST_BYTES))["good_objs"]]
        return folder_names(self._views)

    def absent(self) -> frozenset[str]:
        """The `good_objs` without a folder."""
        return frozenset(self.uids).difference(folder_names(self._views))

    def _read(self, uid: str) -> PosedObject:
        """One object.

        Raises:
            SampleError: a missing view, or poses that make no sense.
        """
        files = ObjectFiles(uid, self._views / uid)
        poses = read_npz(files, "cameras.npz", "cam_poses")[0].astype(np.float64)
        count = files.numbered(("{0:03d}.png",), max(self.at_least, len(poses)))
        if poses.shape not in ((count, 3, 4), (count, 4, 4)):
            raise SampleError(f"{uid}: expected {count} poses [3, 4] as there are views, got {list(poses.shape)}.")
        poses[:, :3, 3] *= SCALE
        images = tuple(files.file(f"{view:03d}.png") for view in range(count))
        size = image_size(uid, images[0])
        c2w = self.c2w_opencv(uid, poses)
        return PosedObject(
            uid,
            Cameras(c2w, pinhole(uid, [math.radians(FOV_DEG)] * count, size)),
            images,
            size,
            depth=partial(_depth, files) if "000_depth.png" in files.names else None,
            normals=partial(_normals, files) if "000_normal.png" in files.names else None,
        )


def _depth(files: ObjectFiles, view: int) -> Tensor:
    stored = levels(files.uid, view, files.file(f"{view:03d}_depth.png"), ("L", "RGB", "RGBA"))
    return torch.from_numpy(stored[..., 0] / 255 * _DEPTH_REACH * SCALE).float()


def _normals(files: ObjectFiles, view: int) -> Tensor:
    """Stored as (n + 1) / 2 in the Z-up world, black where empty."""
    stored = torch.from_numpy(levels(files.uid, view, files.file(f"{view:03d}_normal.png"), ("RGB", "RGBA"))[..., :3])
    normals = torch.nn.functional.normalize(y_up_from_z_up(stored / 255 * 2 - 1), dim=-1)
    return torch.where((stored > 0).any(dim=-1, keepdim=True), normals, 0).float()
