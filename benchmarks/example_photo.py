"""Make the example photo that `predict` takes without `--image`: a held-out bundled object on a soft, light background.

`python benchmarks/example_photo.py ouroboros3d/datamodules/bundled/example.png`
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from ouroboros3d.cli import main as ouroboros3d
from ouroboros3d.datamodules.selection import BUNDLED

PLANT = "bfaab4e6f0f0fb2552861d285572bdd4"  # "Little plant" by Rameshrj, CC-0, a test object
SIZE = 512


def example() -> Image.Image:
    """A render lit from the camera, before a backdrop that grows darker downwards, with a shadow below the object."""
    look = f"--size {SIZE} --views 8 --elevation_deg 10 10 --light 0.6 --supersampling 3".split()
    with TemporaryDirectory() as folder:
        ouroboros3d(["render", str(BUNDLED), "--uids", PLANT, "--out", folder, *look])
        with Image.open(Path(folder, f"{PLANT}-00", "render_0001.webp")) as file:
            render = file.convert("RGBA")
    left, _, right, bottom = render.getbbox()
    down, across = np.mgrid[0:SIZE, 0:SIZE]
    ellipse = ((across - (left + right) / 2) / (0.5 * (right - left))) ** 2 + ((down - bottom + 8) / 26) ** 2
    # 24 levels in all: `removal: border` takes colours within a tenth of the range for one background.
    grey = 244 - 10 * down / SIZE - 14 * np.exp(-ellipse)
    photo = Image.fromarray(np.stack([grey + 2, grey, grey - 3], -1).round().astype(np.uint8))
    photo.paste(render, mask=render)
    return photo


if __name__ == "__main__":
    example().save(sys.argv[1], optimize=True)
