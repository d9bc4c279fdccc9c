"""Orbits with a `meta.json` each: official Ouroboros3D data, EpiDiff's, and what this package renders itself.

Official (Costwen/Ouroboros3D): `<uid>/meta.json` and `render_0000.webp`, ..., one orbit a folder. EpiDiff
(huanngzh/EpiDiff): `00/<uid>/`, six rings of 16 views. Ours: `<uid>-00/`, `<uid>-01/`, ..., a `format` key, and
optional maps beside the views (docs/formats.md, section 3).
"""

import math
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.orbits.true_geometry import TrueGeometry, surface_name
from ouroboros3d.datamodules.orbits.writing import FORMAT, FORMAT_VERSION, orbit_name
from ouroboros3d.datamodules.readers.arrays import read_npz
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.pixels import DEPTH_MODES, image_size, levels
from ouroboros3d.datamodules.readers.posed import PosedObject, PosedReader, read_json, read_listed
from ouroboros3d.datamodules.readers.poses import BLENDER, pinhole, rings_by_elevation
from ouroboros3d.datamodules.readers.stored import ObjectFiles, first_folders, folder_names
from ouroboros3d.datamodules.splits import SPLITS, Split
from ouroboros3d.datamodules.untrusted import (
    MAX_COORDINATE,
    MAX_DESCRIPTION_BYTES,
    MAX_SOLID_SIDE,
    parse_json,
    read_regular,
    reraise_as,
)
from ouroboros3d.surface import Surface

_ORBIT = re.compile(r"(.+)-\d{2,}")  # of ours: uid and number


class Ouroboros3DReader(PosedReader):
    """Orbits with a shared `camera_angle_x` and Blender's camera-to-world matrices."""

    name = "ouroboros3d"
    looks_for = "<uid>/meta.json or 00/<uid>/meta.json with camera_angle_x and locations[].frames[].name"
    stored_poses = BLENDER

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether the first `meta.json` found has one angle for all views and names its frames."""
        return not (root / "shard-000000.jsonl").is_file() and any(
            "camera_angle_x" in meta and "frames" in location for meta, location in first_metas(root, depths=(1, 2))
        )

    def list_uids(self) -> list[str]:
        """The objects that have at least one folder."""
        return list(self._folders)

    def absent(self) -> frozenset[str]:
        """Those of `train.txt` without a folder."""
        return frozenset(self._folders.keys() - self._found.keys())

    @cached_property
    def _folders(self) -> dict[str, list[str]]:
        """The orbits of every object, relative to the root: of those in the tree's list, where it has one for all."""
        found, listed = self._found, self.root / "train.txt"
        if self._ours or not listed.is_file() or self._lists_hold_out:
            return found
        return {uid: found.get(uid, [uid]) for uid in map(_last, read_listed(listed, "lines"))}

    @cached_property
    def _found(self) -> dict[str, list[str]]:
        """The orbits of every object that has a folder."""
        names = folder_names(self.root)
        if any((self.root / name / "meta.json").is_file() for name in names[:16]):
            if self._ours:
                grouped: dict[str, list[str]] = {}
                for name in names:
                    if match := _ORBIT.fullmatch(name):
                        grouped.setdefault(match[1], []).append(name)
                return {uid: orbits for uid, orbits in grouped.items() if orbit_name(uid, 0) in orbits}
            return {name: [name] for name in names}
        return {uid: [f"{shard}/{uid}"] for shard in names for uid in folder_names(self.root / shard)}

    @cached_property
    def _ours(self) -> bool:
        return any(meta.get("format") == FORMAT for meta, _ in first_metas(self.root, depths=(1,)))

    @property
    def _lists_hold_out(self) -> bool:
        return any((self.root / f"{split}.txt").is_file() for split in ("val", "test"))

    @cached_property
    def _promised_orbits(self) -> int:
        """Orbits that a cache of ours renders of every object; 1 for a tree without that file."""
        try:
            config = parse_json(read_regular(self.root / "render_config.json", MAX_DESCRIPTION_BYTES))
            return int(config["rig"]["orbits"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return 1

    def listed_splits(self) -> dict[str, Split]:
        """What `train.txt`, `val.txt` and `test.txt` say, where there are held-out objects in them.

        The official data has one list for all three, which holds nothing out: it says which objects are used.
        """
        if not self._lists_hold_out:
            return {}
        lists = {split: self.root / f"{split}.txt" for split in SPLITS}
        splits: dict[str, Split] = {}
        for split in SPLITS:
            for name in read_listed(lists[split], "lines") if lists[split].is_file() else []:
                uid = _uid(name) if self._ours else _last(name)
                if splits.setdefault(uid, split) != split:
                    raise ValueError(
                        f"{lists[split]}: expected lists without common objects, got {uid} in {splits[uid]}.txt too."
                    )
        return splits

    def _read(self, uid: str) -> PosedObject:
        """All orbits of one object, one ring each; EpiDiff's one folder has a ring for each elevation.

        Raises:
            SampleError: a missing orbit, metadata of another format, or cameras that make no sense.
        """
        orbits = [self.read_orbit(files) for files in self.orbit_files(uid)]
        sizes = {orbit.size for orbit in orbits}
        if len(sizes) != 1:
            raise SampleError(f"{uid}: expected orbits of one image size, got {sorted(sizes)}.")
        rings: list[tuple[int, ...]] = []
        first = 0
        for orbit in orbits:
            rings += [tuple(first + view for view in ring) for ring in orbit.rings]
            first += len(orbit)
        maps = [(orbit, view) for orbit in orbits for view in range(len(orbit))]
        return PosedObject(
            uid,
            Cameras.cat([orbit.cameras for orbit in orbits], dim=0),
            tuple(image for orbit in orbits for image in orbit.images),
            sizes.pop(),
            tuple(rings),
            depth=partial(_of_orbit, maps, "depth") if all(orbit.depth for orbit in orbits) else None,
            normals=partial(_of_orbit, maps, "normals") if all(orbit.normals for orbit in orbits) else None,
        )

    def has_true_geometry(self, uid: str, surface_points: int) -> bool:
        """Whether the first orbit carries that many points of the true surface."""
        return self.orbit_files(uid)[0].has(surface_name(surface_points))

    def true_geometry(self, uid: str, surface_points: int) -> TrueGeometry:
        """The true geometry of an object, with coordinate maps of its first orbit's views.

        Raises:
            SampleError: it was not written, or is broken.
        """
        files = self.orbit_files(uid)[0]
        expected = f"{uid}: expected the true geometry of a rendered object in {files.path}"
        with reraise_as(SampleError, expected):
            orbit, found = self.read_orbit(files), read_true_geometry(files, surface_points)
            arrays = found.surface.points, found.surface.normals, found.coordinates
            shapes = [list(array.shape) for array in arrays]
            if shapes != [[1, surface_points, 3], [1, surface_points, 3], [len(orbit), *orbit.size, 3]]:
                raise SampleError(f"{expected}, got points, normals and coordinate maps of the shapes {shapes}.")
            if not all(bool((array.abs() < MAX_COORDINATE).all()) for array in arrays):  # NaN fails too
                raise SampleError(f"{expected}, got NaN, infinity or numbers beyond {MAX_COORDINATE:g}.")
            return found

    def orbit_files(self, uid: str) -> list[ObjectFiles]:
        """The files of every orbit of an object.

        Raises:
            SampleError: an orbit is missing.
        """
        return [ObjectFiles(uid, self.root / name) for name in self._orbit_names(uid)]

    def _first_orbit(self, uid: str) -> Path:
        return self.root / orbit_name(uid, 0)

    def _orbit_names(self, uid: str) -> list[str]:
        """Folders of an object, found without listing the tree where they are numbered."""
        if not self._first_orbit(uid).is_dir():
            return self._folders.get(uid, [uid])
        count = 1
        while (self.root / orbit_name(uid, count)).is_dir():
            count += 1
        # The first one that was promised and is missing is named by who opens it.
        return [orbit_name(uid, orbit) for orbit in range(count + (count < self._promised_orbits))]

    def read_orbit(self, files: ObjectFiles) -> PosedObject:
        """One folder.

        Args:
            files: of the folder.

        Raises:
            SampleError: metadata of another format, or cameras that make no sense.
        """
        uid = files.uid
        meta = read_json(files, "meta.json")
        if "format" in meta and (meta["format"], meta.get("format_version")) != (FORMAT, FORMAT_VERSION):
            raise SampleError(
                f"{uid}: expected format {FORMAT!r} version {FORMAT_VERSION} in {files.file('meta.json')}, got "
                f"{meta['format']!r} version {meta.get('format_version')!r}."
            )
        where = files.file("meta.json")
        with reraise_as(SampleError, f"{uid}: expected camera_angle_x and locations with frames and poses in {where}"):
            names = [str(location["frames"][0]["name"]) for location in meta["locations"]]
            matrices = [location["transform_matrix"] for location in meta["locations"]]
            angle = meta["camera_angle_x"]
        if len(names) < self.at_least or not names:
            raise SampleError(f"{uid}: expected at least {self.at_least} views in {files.path}, got {len(names)}.")
        images = tuple(map(files.file, names))
        sized = "width" in meta and "height" in meta
        size = (int(meta["height"]), int(meta["width"])) if sized else image_size(uid, images[0])
        poses = self.c2w_opencv(uid, matrices)
        cameras = Cameras(poses, pinhole(uid, [angle] * len(names), size))
        ours = "format" in meta
        return PosedObject(
            uid,
            cameras,
            images,
            size,
            (tuple(range(len(names))),) if ours else rings_by_elevation(cameras) or (tuple(range(len(names))),),
            depth=partial(_depth, files, float(meta.get("depth_unit", 1 / 16384)))
            if ours and files.has("depth_0000.png")
            else None,
            normals=partial(_normals, files) if ours and files.has("normal_world_0000.npz") else None,
        )


def _uid(name: str) -> str:
    """The uid of an orbit of ours."""
    match = _ORBIT.fullmatch(name)
    return match[1] if match else name


def _last(name: str) -> str:
    """The uid of a list's entry, which may have its shard before it."""
    return name.rsplit("/", 1)[-1]


def first_metas(root: Path, depths: tuple[int, ...]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The first readable `meta.json` below a root, and its first location.

    Args:
        root: the tree.
        depths: levels of folders to look through.
    """
    for depth in depths:
        for folder in first_folders(root, depth):
            try:
                meta = parse_json(read_regular(folder / "meta.json", MAX_DESCRIPTION_BYTES))
                location = meta["locations"][0]
            except (OSError, ValueError, KeyError, IndexError, TypeError):
                continue
            if isinstance(location, dict):
                yield meta, location
                return


def _of_orbit(maps: list[tuple[PosedObject, int]], kind: str, view: int) -> Tensor:
    orbit, place = maps[view]
    read: partial[Tensor] = getattr(orbit, kind)
    return read(place)


def _depth(files: ObjectFiles, unit: float, view: int) -> Tensor:
    stored = levels(files.uid, view, files.file(f"depth_{view:04d}.png"), DEPTH_MODES)
    return torch.from_numpy(stored[..., 0] * unit).float()


def _normals(files: ObjectFiles, view: int) -> Tensor:
    return torch.from_numpy(read_npz(files, f"normal_world_{view:04d}.npz", "normal")[0].astype(np.float32))


def read_true_geometry(files: ObjectFiles, count: int) -> TrueGeometry:
    """Read one object's geometry, with all coordinate maps of its first orbit.

    Args:
        files: of the first orbit.
        count: surface points.

    Raises:
        SampleError: a file is missing or broken.
    """
    arrays = "points", "normals", "occupancy", "resolution"
    points, normals, packed, resolution = read_npz(files, surface_name(count), *arrays)
    expected = f"{files.uid}: expected solid cells in {files.file(surface_name(count))}"
    with reraise_as(SampleError, expected):
        side = int(resolution)
        if not (0 < side <= MAX_SOLID_SIDE and len(packed) == math.ceil(side**3 / 8)):
            raise SampleError(f"{expected}, got {len(packed)} bytes for {side} cells a side.")
        cells = np.unpackbits(packed.astype(np.uint8), count=side**3).astype(bool)
    names = sorted(name for name in files.names if fnmatch(name, "coordinate_*.npz"))
    with reraise_as(SampleError, f"{files.uid}: expected coordinate maps in {files.path}"):
        maps = np.stack([read_npz(files, name, "coordinate")[0].astype(np.float32) for name in names])
    surface = Surface(*(torch.from_numpy(array.astype(np.float32))[None] for array in (points, normals)))
    return TrueGeometry(surface, torch.from_numpy(cells).view(side, side, side), torch.from_numpy(maps))
