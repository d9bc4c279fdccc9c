"""Renders of allenai/objaverse-rendering: `views/<uid>/000.png`, without any camera file."""

import math
from pathlib import Path

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.readers.pixels import image_size
from ouroboros3d.datamodules.readers.posed import PosedObject, PosedReader
from ouroboros3d.datamodules.readers.poses import BLENDER_FOCAL, focal_angle
from ouroboros3d.datamodules.readers.stored import ObjectFiles, first_folders, folder_names

RADIUS, ELEVATION_DEG, VIEWS = 1.5, 30.0, 12


class ObjaverseRenderingReader(PosedReader):
    """12 views whose cameras nobody stored: those of the script's defaults, where the user vouches for them.

    Args:
        root: the tree.
        views_per_object: how many views each object has at least; None for 12.
        assume_rig: take the views for those of the script's defaults.

    Raises:
        ValueError: `assume_rig` is off.
    """

    name = "objaverse_rendering"
    looks_for = "views/<uid>/000.png without poses"
    promised_views = VIEWS

    def __init__(self, root: Path, views_per_object: int | None = None, assume_rig: bool = False) -> None:
        super().__init__(root, views_per_object)
        if not assume_rig:
            raise ValueError(
                f"root: expected cameras with the views in {root}, got none, as {self.name} stores none; if they were "
                "rendered with its defaults (azimuth 30 degrees a view, elevation 30, distance 1.5), set assume_rig."
            )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether the first folders of `views` hold images, and nothing that could be their cameras."""
        return any(
            (folder / "000.png").is_file() and not any(folder.glob("*.np[yz]")) and not any(folder.glob("*.json"))
            for folder in first_folders(root / "views")
        )

    def list_uids(self) -> list[str]:
        """Every folder of `views`."""
        return folder_names(self.root / "views")

    def _read(self, uid: str) -> PosedObject:
        """One object.

        Raises:
            SampleError: a missing view.
        """
        files = ObjectFiles(uid, self.root / "views" / uid)
        count = files.numbered(("{0:03d}.png",), self.at_least)
        images = tuple(files.file(f"{view:03d}.png") for view in range(count))
        size = image_size(uid, images[0])
        azimuth_deg = [360 / VIEWS * view + 90 for view in range(count)]
        fov_deg = math.degrees(focal_angle(BLENDER_FOCAL))
        cameras = Cameras.orbit(azimuth_deg, ELEVATION_DEG, RADIUS, fov_deg, size[1] / size[0])
        return PosedObject(uid, cameras, images, size, (tuple(range(count)),))
