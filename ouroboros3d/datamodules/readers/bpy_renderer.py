"""bpy-renderer's orbits (huanngzh/bpy-renderer): `<uid>/meta.json` with an angle of view for every location."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.ouroboros3d import first_metas
from ouroboros3d.datamodules.readers.pixels import image_size, levels
from ouroboros3d.datamodules.readers.posed import PosedObject, PosedReader, read_json
from ouroboros3d.datamodules.readers.poses import BLENDER, pinhole, rings_by_elevation
from ouroboros3d.datamodules.readers.stored import ObjectFiles
from ouroboros3d.datamodules.untrusted import reraise_as


class BpyRendererReader(PosedReader):
    """Blender's camera to world; only perspective views, since a pinhole camera cannot stand for the others."""

    name = "bpy_renderer"
    looks_for = "<uid>/meta.json with locations[].camera_angle_x and no frames"
    stored_poses = BLENDER

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether the first `meta.json` found has locations without frames."""
        return any(
            "frames" not in location and ("camera_angle_x" in location or "projection_type" in location)
            for _, location in first_metas(root, depths=(1,))
        )

    def _read(self, uid: str) -> PosedObject:
        """One object.

        Raises:
            SampleError: orthographic views, a missing view (a video has none), or cameras that make no sense.
        """
        files = ObjectFiles(uid, self.root / uid)
        meta = read_json(files, "meta.json")
        locations = meta.get("locations")
        if not isinstance(locations, list) or not all(isinstance(location, dict) for location in locations):
            raise SampleError(f"{uid}: expected a list of locations in {files.file('meta.json')}, got none.")
        kinds = {str(place.get("projection_type", "PERSP")) for place in (meta, *locations)}
        if kinds != {"PERSP"}:
            raise SampleError(
                f"{uid}: expected perspective views, got projection_type {', '.join(sorted(kinds - {'PERSP'}))} "
                f"({files.file('meta.json')}); a pinhole camera cannot stand for them."
            )
        if len(locations) < self.at_least:
            raise SampleError(f"{uid}: expected at least {self.at_least} views in {files.path}, got {len(locations)}.")
        where = files.file("meta.json")
        with reraise_as(SampleError, f"{uid}: expected locations with index, camera_angle_x and pose in {where}"):
            indices = [str(location["index"]) for location in locations]
            angles = [location["camera_angle_x"] for location in locations]
            poses = [location["transform_matrix"] for location in locations]
        ending = "webp" if f"render_{indices[0]}.webp" in files.names else "png"
        images = tuple(files.file(f"render_{index}.{ending}") for index in indices)
        size = image_size(uid, images[0])
        c2w = self.c2w_opencv(uid, poses)
        cameras = Cameras(c2w, pinhole(uid, angles, size))
        mapped = f"normal_{indices[0]}.{ending}" in files.names
        return PosedObject(
            uid,
            cameras,
            images,
            size,
            rings_by_elevation(cameras),
            normals=partial(_normals, files, [f"normal_{index}.{ending}" for index in indices], cameras)
            if mapped
            else None,
        )


def _normals(files: ObjectFiles, names: list[str], cameras: Cameras, view: int) -> Tensor:
    """Stored as (n + 1) / 2 along the camera's own right, up and backward axes; alpha says where there is one."""
    stored = levels(files.uid, view, files.file(names[view]), ("RGBA",))
    in_camera = (torch.from_numpy(stored[..., :3]) / 255 * 2 - 1) * torch.tensor([1, -1, -1])
    normals = torch.nn.functional.normalize(in_camera.float() @ cameras.c2w_opencv[view, :3, :3].T, dim=-1)
    return torch.where(torch.from_numpy(stored[..., 3:]) > 127, normals, 0)
