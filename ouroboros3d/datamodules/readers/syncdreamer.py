"""SyncDreamer's Google Scanned Objects (liuyuan-pal/SyncDreamer): `<name>/000.png` and `<name>/000-depth.png`."""

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.readers.pixels import DEPTH_MODES, image_size, levels
from ouroboros3d.datamodules.readers.posed import PosedObject, PosedReader
from ouroboros3d.datamodules.readers.poses import BLENDER_FOCAL, focal_angle
from ouroboros3d.datamodules.readers.stored import ObjectFiles, first_folders

RADIUS, ELEVATION_DEG, VIEWS = 1.5, 30.0, 16
# Depth lies in [0.6, 2.4]; what is at the ends is empty.
_NEAR, _REACH, _VALID = 0.6, 1.8, (0.63, 2.37)


class SyncDreamerGSOReader(PosedReader):
    """16 views of one rig, which is known in closed form: the pickled camera file is never opened."""

    name = "syncdreamer_gso"
    looks_for = "<name>/000.png and <name>/000-depth.png"
    promised_views = VIEWS

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether the first folders hold a depth map beside the first image."""
        return any((folder / "000-depth.png").is_file() for folder in first_folders(root))

    def _read(self, uid: str) -> PosedObject:
        """One object.

        Raises:
            SampleError: a missing view.
        """
        files = ObjectFiles(uid, self.root / uid)
        count = files.numbered(("{0:03d}.png", "{0:03d}-depth.png"), self.at_least)
        images = tuple(files.file(f"{view:03d}.png") for view in range(count))
        size = image_size(uid, images[0])
        azimuth_deg = [360 / VIEWS * view + 90 for view in range(count)]
        fov_deg = math.degrees(focal_angle(BLENDER_FOCAL))
        cameras = Cameras.orbit(azimuth_deg, ELEVATION_DEG, RADIUS, fov_deg, size[1] / size[0])
        return PosedObject(uid, cameras, images, size, (tuple(range(count)),), depth=partial(_depth, files))


def _depth(files: ObjectFiles, view: int) -> Tensor:
    stored = torch.from_numpy(levels(files.uid, view, files.file(f"{view:03d}-depth.png"), DEPTH_MODES))[..., 0]
    depth = stored / 65535 * _REACH + _NEAR
    return torch.where((depth > _VALID[0]) & (depth < _VALID[1]), depth, 0).float()
