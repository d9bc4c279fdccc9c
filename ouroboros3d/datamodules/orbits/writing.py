"""Orbits of rendered views on disk: the one format we write (docs/formats.md, section 3).

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
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ouroboros3d.cameras import Cameras, to_blender

FORMAT = "ouroboros3d-orbit"
FORMAT_VERSION = 1


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
