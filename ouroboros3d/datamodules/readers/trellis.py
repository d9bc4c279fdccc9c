"""TRELLIS's renders (microsoft/TRELLIS): `renders/<sha256>/transforms.json` and `000.png`, also `renders_cond/`."""

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.readers.posed import (
    PosedObject,
    PosedReader,
    image_size,
    levels,
    pinhole,
    read_json,
    rigid,
)
from ouroboros3d.datamodules.readers.stored import ObjectFiles, SampleError, first_folders, folder_names

_EMPTY = 65535
_KEYS = {"aabb", "scale", "offset", "frames"}


class TrellisReader(PosedReader):
    """Blender's camera to world and an angle of view for every frame; the object is normalised to the unit cube."""

    name = "trellis"
    looks_for = "[renders/ or renders_cond/]<sha256>/transforms.json with aabb, scale, offset and frames"

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether the first folders of `renders`, of `renders_cond` or of the root itself hold such a file."""
        places = (root / "renders", root / "renders_cond", root)
        return any(_is_object(folder) for place in places for folder in first_folders(place))

    @property
    def _views(self) -> Path:
        """`renders` where there is one; name `renders_cond` itself as the root to read that."""
        return next(
            (self.root / name for name in ("renders", "renders_cond") if (self.root / name).is_dir()), self.root
        )

    def list_uids(self) -> list[str]:
        """The objects of `metadata.csv` that are rendered, or every folder where there is no list.

        Raises:
            ValueError: the list has no column sha256.
        """
        path = self.root / "metadata.csv"
        if not path.is_file():
            return folder_names(self._views)
        rendered = "cond_rendered" if self._views.name == "renders_cond" else "rendered"
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            if "sha256" not in (rows.fieldnames or ()):
                raise ValueError(f"{path}: expected a column sha256, got {rows.fieldnames}.")
            return [row["sha256"] for row in rows if row.get(rendered, "True") == "True"]

    def read(self, uid: str) -> PosedObject:
        """One object.

        Raises:
            SampleError: a missing view, or cameras that make no sense.
        """
        files = ObjectFiles(uid, self._views / uid)
        frames = read_json(files, "transforms.json").get("frames")
        try:
            assert isinstance(frames, list)
            images = tuple(files.file(str(frame["file_path"])) for frame in frames)
            angles = [frame["camera_angle_x"] for frame in frames]
            poses = [frame["transform_matrix"] for frame in frames]
        except (AssertionError, KeyError, TypeError) as error:
            raise SampleError(
                f"{uid}: expected frames with file_path, camera_angle_x and transform_matrix in "
                f"{files.file('transforms.json')}, got none ({error!r})."
            ) from error
        if len(images) < self.at_least:
            raise SampleError(f"{uid}: expected at least {self.at_least} views in {files.path}, got {len(images)}.")
        size = image_size(uid, images[0])
        c2w = rigid(uid, poses, pose="c2w", axes="opengl")
        mapped = all("depth" in frame for frame in frames) and f"{images[0].path.stem}_depth.png" in files.names
        return PosedObject(
            uid,
            Cameras(c2w, pinhole(uid, angles, size)),
            images,
            size,
            depth=partial(_depth, files, frames) if mapped else None,
        )


def _is_object(folder: Path) -> bool:
    try:
        content = json.loads((folder / "transforms.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.keys() >= _KEYS


def _depth(files: ObjectFiles, frames: list[dict[str, Any]], view: int) -> Tensor:
    file = files.file(str(Path(frames[view]["file_path"]).with_suffix("")) + "_depth.png")
    stored = torch.from_numpy(levels(files.uid, view, file))
    low, high = float(frames[view]["depth"]["min"]), float(frames[view]["depth"]["max"])
    return torch.where(stored == _EMPTY, 0, low + stored / 65535 * (high - low)).float()
