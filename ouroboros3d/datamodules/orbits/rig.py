"""Orbits of rendered views on disk: the one format we write (FORMATS section 3).

An orbit is a folder `<uid>-<orbit>` with lossless `render_%04d.webp` (RGBA, straight alpha, sRGB, never composited)
and `meta.json`, which the official Ouroboros3D loader reads too. A folder appears under its final name only when it
is complete, so a killed writer leaves nothing that a reader could take for an orbit.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ouroboros3d.cameras import Cameras, to_blender
from ouroboros3d.datamodules.splits import hashed_uniform

FORMAT = "ouroboros3d-orbit"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class OrbitRig:
    """Where the cameras of the cached views stand: several orbits per object, each at an elevation of its own.

    Args:
        image_size: height and width in pixels.
        orbits: orbits per object.
        views: views per orbit, evenly spread over 360 degrees.
        elevation_deg: lowest and highest elevation in degrees; the orbits' elevations are spread over this range.
        radius: distance of the cameras from the object's centre, scene units.
        fov_deg: the whole field of view in degrees. At radius 1.7417, 39.598 just holds every normalised object.
        supersampling: rays per pixel along each axis.
        light: strength of the light from the camera in [0, 1]; 0 shows the unlit base colour.
        seed: draws the elevations and start azimuths, together with the uid.
    """

    image_size: int = 64
    orbits: int = 4
    views: int = 8
    elevation_deg: tuple[float, float] = (-5.0, 30.0)
    radius: float = 1.7417
    fov_deg: float = 39.598
    supersampling: int = 2
    light: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges once.

        Raises:
            ValueError: a size or count below 1, an empty or impossible range of elevations, radius, fov or light.
        """
        for name in ("image_size", "orbits", "views", "supersampling"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}.")
        low, high = self.elevation_deg
        if not -90 <= low <= high <= 90:
            raise ValueError(f"elevation_deg: expected -90 <= low <= high <= 90 degrees, got [{low:g}, {high:g}].")
        if not self.radius > 0:
            raise ValueError(f"radius: expected a positive distance in scene units, got {self.radius:g}.")
        if not 1 <= self.fov_deg <= 179:
            raise ValueError(f"fov_deg: expected degrees in [1, 179], got {self.fov_deg:g}; radians need * 180 / pi.")
        if not 0 <= self.light <= 1:
            raise ValueError(f"light: expected a strength in [0, 1], got {self.light:g}.")

    def as_dict(self) -> dict[str, Any]:
        """The rig as JSON."""
        return {**asdict(self), "elevation_deg": list(self.elevation_deg)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "OrbitRig":
        """The rig that `as_dict` described."""
        low, high = fields["elevation_deg"]
        return cls(**{**fields, "elevation_deg": (low, high)})

    def elevations_deg(self, uid: str) -> list[float]:
        """One elevation per orbit of this object: one in each `orbits`-th part of the range, in random order."""
        low, high = self.elevation_deg
        order = sorted(range(self.orbits), key=lambda part: hashed_uniform("order", self.seed, uid, part))
        places = [(part + hashed_uniform("elevation", self.seed, uid, part)) / self.orbits for part in order]
        return [low + (high - low) * place for place in places]

    def cameras(self, uid: str, orbit: int) -> Cameras:
        """Cameras [views] of one orbit of this object, azimuth growing by 360 / views from a start of its own."""
        step = 360 / self.views
        start = step * hashed_uniform("azimuth", self.seed, uid, orbit)
        azimuth_deg = [start + step * view for view in range(self.views)]
        return Cameras.orbit(azimuth_deg, self.elevations_deg(uid)[orbit], self.radius, self.fov_deg)


def orbit_name(uid: str, orbit: int) -> str:
    """Folder name of one orbit."""
    return f"{uid}-{orbit:02d}"


def write_orbit(
    folder: Path,
    rgba: Tensor,
    cameras: Cameras,
    *,
    fov_deg: float,
    details: dict[str, Any],
    beside: Callable[[Path], None] | None = None,
) -> None:
    """Write one orbit; whoever finishes first wins, and a killed writer leaves only a hidden temporary folder.

    Args:
        folder: final name; an existing complete orbit is kept.
        rgba: [F, H, W, 4] uint8, straight alpha, sRGB.
        cameras: [F] in the object's frame.
        fov_deg: the whole horizontal field of view in degrees.
        details: further entries of `meta.json` (object, normalization, orbit).
        beside: writes further files into the folder that it is given, which appear together with the views.
    """
    if (folder / "meta.json").is_file():
        return
    frames, height, width = rgba.shape[:3]
    poses = to_blender(cameras.c2w_opencv)
    locations = []
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        for index in range(frames):
            name = f"render_{index:04d}.webp"
            Image.fromarray(rgba[index].numpy()).save(temporary / name, lossless=True, exact=False)
            x, y, z = poses[index, :3, 3].tolist()
            locations.append(
                {
                    "index": f"{index:04d}",
                    "transform_matrix": poses[index].tolist(),
                    "elevation": math.atan2(z, math.hypot(x, y)),
                    "azimuth": math.atan2(y, x),
                    "frames": [{"name": name}],
                }
            )
        meta = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "camera_angle_x": math.radians(fov_deg),
            "width": width,
            "height": height,
            "projection_type": "PERSP",
            **details,
            "locations": locations,
        }
        (temporary / "meta.json").write_text(json.dumps(meta))
        if beside is not None:
            beside(temporary)
        temporary.chmod(0o755)  # mkdtemp makes it private; the renders may be shared between users
        os.rename(temporary, folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not (folder / "meta.json").is_file():
            raise
