"""TRELLIS's renders (microsoft/TRELLIS): `renders/<sha256>/transforms.json` and `000.png`, also `renders_cond/`."""

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.pixels import DEPTH_MODES, image_size, levels
from ouroboros3d.datamodules.readers.posed import PosedObject, PosedReader, read_json
from ouroboros3d.datamodules.readers.poses import BLENDER, pinhole
from ouroboros3d.datamodules.readers.stored import ObjectFiles, first_folders, folder_names
from ouroboros3d.datamodules.untrusted import (
    MAX_DESCRIPTION_BYTES,
    MAX_LIST_BYTES,
    UntrustedError,
    parse_json,
    read_regular,
    reraise_as,
)

_EMPTY = 65535
_KEYS = {"aabb", "scale", "offset", "frames"}


class TrellisReader(PosedReader):
    """Blender's camera to world and an angle of view for every frame; the object is normalised to the unit cube."""

    name = "trellis"
    looks_for = "[renders/ or renders_cond/]<sha256>/transforms.json with aabb, scale, offset and frames"
    stored_poses = BLENDER

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
        with reraise_as(UntrustedError, f"{path}: expected a column sha256"):
            rows = csv.DictReader(io.StringIO(read_regular(path, MAX_LIST_BYTES).decode(), newline=""))
            return [row["sha256"] or "" for row in rows if row.get(rendered, "True") == "True"]

    def absent(self) -> frozenset[str]:
        """Those of `metadata.csv` without a folder."""
        return frozenset(self.uids).difference(folder_names(self._views))

    def _read(self, uid: str) -> PosedObject:
        """One object.

        Raises:
            SampleError: a missing view, or cameras that make no sense.
        """
        files = ObjectFiles(uid, self._views / uid)
        content, where = read_json(files, "transforms.json"), files.file("transforms.json")
        with reraise_as(SampleError, f"{uid}: expected frames with file_path, camera_angle_x and pose in {where}"):
            frames = list(content["frames"])
            names = [str(frame["file_path"]) for frame in frames]
            angles = [frame["camera_angle_x"] for frame in frames]
            poses = [frame["transform_matrix"] for frame in frames]
        if len(names) < self.at_least:
            raise SampleError(f"{uid}: expected at least {self.at_least} views in {files.path}, got {len(names)}.")
        images = tuple(map(files.file, names))
        size = image_size(uid, images[0])
        c2w = self.c2w_opencv(uid, poses)
        stems = [str(PurePosixPath(name).with_suffix("")) for name in names]
        mapped = all("depth" in frame for frame in frames) and files.has(f"{stems[0]}_depth.png")
        reach = [(float(frame["depth"]["min"]), float(frame["depth"]["max"])) for frame in frames] if mapped else []
        return PosedObject(
            uid,
            Cameras(c2w, pinhole(uid, angles, size)),
            images,
            size,
            depth=partial(_depth, files, stems, reach) if mapped else None,
        )


def _is_object(folder: Path) -> bool:
    try:
        content = parse_json(read_regular(folder / "transforms.json", MAX_DESCRIPTION_BYTES))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.keys() >= _KEYS


def _depth(files: ObjectFiles, stems: Sequence[str], reach: Sequence[tuple[float, float]], view: int) -> Tensor:
    stored = torch.from_numpy(levels(files.uid, view, files.file(f"{stems[view]}_depth.png"), DEPTH_MODES))[..., 0]
    low, high = reach[view]
    return torch.where(stored == _EMPTY, 0, low + stored / 65535 * (high - low)).float()
