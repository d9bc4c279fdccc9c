"""What the renderer makes of one bundled object, with unlit and with lit colours.

`python tests/rendered_pixels.py` writes the picture that this RENDERER_VERSION is held to.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.rendering.jobs import RENDERER_VERSION, RenderJob
from ouroboros3d.datamodules.rendering.worker import render_object
from ouroboros3d.datamodules.selection import BUNDLED

UID = "8fe01e8ac03499131b8f32d7a5edc5b8"  # 498 faces of plain and of textured materials
PICTURE = Path(__file__).parent / "fixtures" / f"renderer_version_{RENDERER_VERSION}.png"


def rendered_pixels() -> NDArray[np.uint8]:
    """[64, 128, 4] sRGB and straight alpha: two views of 64 pixels, the second one lit by half."""
    (path,) = BUNDLED.glob(f"glbs/*/{UID}.glb")
    views = []
    for light in (0.0, 0.5):
        rig = OrbitRig(image_size=64, orbits=1, views=1, elevation_deg=(30.0, 30.0), light=light)
        with TemporaryDirectory() as folder:
            result = render_object(RenderJob(UID, str(path), "", "", "", folder, rig.as_dict(), timeout_s=60))
            assert result.stage == "done", result.error
            views.append(np.asarray(Image.open(Path(folder) / f"{UID}-00" / "render_0000.webp").convert("RGBA")))
    return np.concatenate(views, axis=1)


if __name__ == "__main__":
    Image.fromarray(rendered_pixels()).save(PICTURE)
