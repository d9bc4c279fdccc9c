"""OpenEXR images, of which only depth and normal maps are read; the library for it is an optional extra."""

import importlib
import importlib.util
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ouroboros3d.datamodules.readers.stored import SampleError, StoredFile


def read_exr(uid: str, view: int, file: StoredFile) -> dict[str, NDArray[np.float32]]:
    """The channels [H, W] of an image by their names.

    Raises:
        ValueError: the package OpenEXR is not installed.
        SampleError: the file is missing or unreadable.
    """
    if importlib.util.find_spec("OpenEXR") is None:
        raise ValueError("depth and normals in .exr: OpenEXR is not installed; run `pip install ouroboros3d[exr]`.")
    library: Any = importlib.import_module("OpenEXR")
    try:
        with tempfile.NamedTemporaryFile(suffix=".exr") as copy:  # the library reads from paths only
            copy.write(file.read())
            copy.flush()
            with library.File(copy.name, separate_channels=True) as image:
                channels = {name: channel.pixels.astype(np.float32) for name, channel in image.channels().items()}
    except (OSError, RuntimeError, ValueError) as error:
        raise SampleError(f"{uid}: view {view}: expected a readable EXR image, got {error} ({file}).") from error
    return channels
