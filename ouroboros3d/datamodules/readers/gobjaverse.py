"""G-Objaverse (modelscope/richdreamer): `<dict>/<inst>/campos_512_v4/00000/00000.json`, as folders or tar files."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ouroboros3d.cameras import Cameras, intrinsics
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.exr import read_exr
from ouroboros3d.datamodules.readers.pixels import image_size
from ouroboros3d.datamodules.readers.posed import PosedObject, PosedReader, read_json
from ouroboros3d.datamodules.readers.poses import Convention, focal_angle, pinhole
from ouroboros3d.datamodules.readers.stored import ObjectFiles, first_folders, folder_names
from ouroboros3d.datamodules.untrusted import reraise_as

FOCAL = 1.38889
VIEWS = 40
# An orbit by steps of 15 degrees and a ring by steps of 30; views 24 and 39 close them, 25 and 26 look from the poles.
_RINGS = (tuple(range(24)), tuple(range(27, 39)))
_CUBE_RADIUS = 0.867  # of the unit cube's sphere, rounded up: nothing of the object is nearer to a camera
_CAMPOS = "campos_512_v4/"


class GObjaverseReader(PosedReader):
    """40 views; the stored vectors x, y, z are the camera's right, down and forward in a Z-up world."""

    name = "gobjaverse"
    looks_for = "<dict>/<inst>/[campos_512_v4/]00000/00000.json or <dict>/<inst>.tar"
    promised_views = VIEWS
    stored_poses = Convention("c2w", "opencv", "z_up")

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether the first instances hold a first view's JSON, or are tar files."""
        for shard in first_folders(root, limit=4):
            if next(_tars(shard), None):
                return True
            for folder in first_folders(shard, limit=4):
                if any((folder / place / "00000/00000.json").is_file() for place in ("", _CAMPOS)):
                    return True
        return False

    def list_uids(self) -> list[str]:
        """`<dict>_<inst>`: the index of the data set with an underscore, since uids name folders."""
        return list(dict.fromkeys(f"{shard}_{inst}" for shard in folder_names(self.root) for inst in self._of(shard)))

    def select_uids(self, categories: Iterable[str] | None = None, uids: Iterable[str] | None = None) -> list[str]:
        """As for every tree; uids may be written as in the data set's index, `<dict>/<inst>`.

        Raises:
            ValueError: as for every tree.
        """
        named = None if uids is None else [uid.replace("/", "_") for uid in uids]
        return super().select_uids(categories, named)

    def _read(self, uid: str) -> PosedObject:
        """One object.

        Raises:
            SampleError: one of the 40 views is missing, or a camera makes no sense.
        """
        shard, _, inst = uid.partition("_")
        folder = self.root / shard / inst
        files = ObjectFiles(uid, folder if folder.is_dir() else folder.with_name(f"{inst}.tar"))
        first = min((name for name in files.names if name.endswith("00000/00000.json")), key=len, default=None)
        prefix = "" if first is None else first.removesuffix("00000/00000.json")
        count = files.numbered([prefix + "{0:05d}/{0:05d}" + end for end in (".json", ".png")], self.at_least)
        stem = [f"{prefix}{view:05d}/{view:05d}" for view in range(count)]
        images = tuple(files.file(f"{name}.png") for name in stem)
        size = image_size(uid, images[0])
        entries = [read_json(files, f"{name}.json") for name in stem]
        with reraise_as(
            SampleError, f"{uid}: expected x, y, z and origin in {files.file(stem[0])}.json and all others"
        ):
            poses = [np.stack([entry[key] for key in ("x", "y", "z", "origin")], axis=1) for entry in entries]
        c2w = self.c2w_opencv(uid, poses)
        cameras = Cameras(c2w, _intrinsics(uid, entries, size))
        mapped = f"{stem[0]}_nd.exr" in files.names
        return PosedObject(
            uid,
            cameras,
            images,
            size,
            _RINGS if count == VIEWS else (),
            depth=partial(_depth, files, stem, cameras.centres.norm(dim=-1)) if mapped else None,
            normals=partial(_normals, files, stem) if mapped else None,
        )

    def _of(self, shard: str) -> list[str]:
        return folder_names(self.root / shard) + [path.stem for path in _tars(self.root / shard)]


def _tars(shard: Path) -> Iterator[Path]:
    return shard.glob("*.tar")


def _intrinsics(uid: str, entries: list[dict[str, Any]], size: tuple[int, int]) -> Tensor:
    """Of the stored angles where there are any, else of the data set's focal length."""
    horizontal = pinhole(uid, [entry.get("x_fov", focal_angle(FOCAL)) for entry in entries], size)
    fx, fy = horizontal[:, 0, 0], horizontal[:, 1, 1].clone()
    for view, entry in enumerate(entries):
        if "y_fov" in entry:
            fy[view] = pinhole(uid, [entry["y_fov"]], (1, 1))[0, 0, 0]
    return intrinsics(fx, fy)


def _depth(files: ObjectFiles, stem: list[str], radius: Tensor, view: int) -> Tensor:
    """Channel A; values where the object cannot be are noise, and the rim mixes object and background."""
    depth = _map(files, stem, view)["A"]
    valid = np.isfinite(depth) & (depth > 0) & (np.abs(depth - radius[view].item()) <= _CUBE_RADIUS)
    inner = valid.copy()
    inner[1:] &= valid[:-1]
    inner[:-1] &= valid[1:]
    inner[:, 1:] &= valid[:, :-1]
    inner[:, :-1] &= valid[:, 1:]
    return torch.from_numpy(np.where(inner, depth, 0).astype(np.float32))


def _normals(files: ObjectFiles, stem: list[str], view: int) -> Tensor:
    """Stored in a left-handed Y-up world; NaN is empty."""
    channels = _map(files, stem, view)
    normals = np.nan_to_num(np.stack([-channels["R"], channels["G"], channels["B"]], axis=-1))
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    # Half floats and antialiased rims: half a unit tells a normal from its absence.
    return torch.from_numpy(np.where(length > 0.5, normals / np.maximum(length, 0.5), 0).astype(np.float32))


def _map(files: ObjectFiles, stem: list[str], view: int) -> dict[str, NDArray[np.float32]]:
    file = files.file(f"{stem[view]}_nd.exr")
    channels = read_exr(files.uid, view, file)
    if missing := sorted({"R", "G", "B", "A"} - channels.keys()):
        raise SampleError(f"{files.uid}: view {view}: expected channels R, G, B and A, got no {missing} ({file}).")
    return channels
