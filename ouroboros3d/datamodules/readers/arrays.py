"""Arrays of numbers in `.npy` and `.npz` files, without trusting what their headers say."""

import io
import math

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.stored import ObjectFiles, open_zip, zip_member
from ouroboros3d.datamodules.untrusted import MAX_VIEW_BYTES, reraise_as

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npy(files: ObjectFiles, name: str) -> NDArray[np.number]:
    """The array of a `.npy` file.

    Raises:
        SampleError: it is missing or something else.
    """
    content = files.read(name)
    with reraise_as(SampleError, f"{files.uid}: expected an array of numbers in {files.file(name)}"):
        return _array(content)


def read_npz(files: ObjectFiles, name: str, *keys: str) -> list[NDArray[np.number]]:
    """Arrays of a `.npz` file by their names.

    Raises:
        SampleError: the file or an array in it is missing or something else.
    """
    content = files.read(name)
    with reraise_as(SampleError, f"{files.uid}: expected {' and '.join(keys)} in {files.file(name)}"):
        with open_zip(content) as archive:
            return [_array(zip_member(archive, f"{key}.npy", MAX_VIEW_BYTES)) for key in keys]


def _array(content: bytes) -> NDArray[np.number]:
    """What `np.load` gives, which would first make room for as much as the header says."""
    stream = io.BytesIO(content)
    shape, by_columns, dtype = _HEADERS[npy.read_magic(stream)](stream)
    if dtype.kind not in "iuf":
        raise ValueError(f"elements of type {dtype}")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ValueError(f"{len(content) - stream.tell()} bytes for the shape {list(shape)}")
    values: NDArray[np.number] = np.frombuffer(content, dtype, offset=stream.tell())
    return values.reshape(shape, order="F" if by_columns else "C").copy()
