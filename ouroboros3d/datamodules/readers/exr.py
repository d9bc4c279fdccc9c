"""OpenEXR images, of which only depth and normal maps are read; the library for it is an optional extra."""

import importlib
import importlib.util
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.stored import StoredFile
from ouroboros3d.datamodules.untrusted import MAX_VIEW_BYTES, MAX_VIEW_SIDE, MissingPackage, reraise_as


def read_exr(uid: str, view: int, file: StoredFile) -> dict[str, NDArray[np.float32]]:
    """The channels [H, W] of an image by their names.

    Raises:
        MissingPackage: the package OpenEXR is not installed.
        SampleError: the file is missing or unreadable.
    """
    if importlib.util.find_spec("OpenEXR") is None:
        raise MissingPackage("depth and normals in .exr: OpenEXR is not installed; run `pip install ouroboros3d[exr]`.")
    library: Any = importlib.import_module("OpenEXR")
    with (
        reraise_as(SampleError, f"{uid}: view {view}: expected a readable EXR image in {file}"),
        tempfile.NamedTemporaryFile(suffix=".exr") as copy,  # the library reads from paths only
    ):
        copy.write(file.read())
        copy.flush()
        channels = _channels(library, copy.name)
    if len({channel.shape for channel in channels.values()}) != 1:
        raise SampleError(f"{uid}: view {view}: expected channels of one size in {file}, got others.")
    return channels


def _channels(library: Any, path: str) -> dict[str, NDArray[np.float32]]:  # noqa: ANN401
    with library.File(path, header_only=True) as image:
        header = image.header()
        low, high = (corner.astype(int) for corner in header["dataWindow"])
        if not (0 <= high - low).all() or not (high - low < MAX_VIEW_SIDE).all():
            raise ValueError(f"pixels {low.tolist()} to {high.tolist()}, expected at most {MAX_VIEW_SIDE} a side")
        count = len(image.parts) * len(header["channels"])
        if 4 * count * (1 + high - low).prod() > MAX_VIEW_BYTES:
            raise ValueError(f"{count} channels of such a size, expected at most {MAX_VIEW_BYTES} bytes in all")
    with library.File(path, separate_channels=True) as image:
        if not image.parts:  # the library prints why
            raise ValueError("pixels that cannot be decoded")
        return {name: channel.pixels.astype(np.float32) for name, channel in image.channels().items()}
