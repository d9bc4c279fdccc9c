"""Image files of a tree: their size, and the integers in them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.stored import StoredFile
from ouroboros3d.datamodules.untrusted import MAX_VIEW_SIDE, open_image, reraise_as

DEPTH_MODES = ("I;16", "I")  # 16 bits; which one depends on Pillow's version


def image_size(uid: str, file: StoredFile) -> tuple[int, int]:
    """Height and width of an image.

    Raises:
        SampleError: it is missing or no image.
    """
    with reading_image(uid, 0, file):
        image = open_image(file.read(), MAX_VIEW_SIDE)
        return image.height, image.width


def levels(uid: str, view: int, file: StoredFile, modes: Sequence[str]) -> NDArray[np.int32]:
    """The stored integers [H, W, C] of an image.

    Args:
        uid: the object.
        view: for messages.
        file: the image.
        modes: in Pillow's terms that it may have, such as `RGBA`, or `DEPTH_MODES`.

    Raises:
        SampleError: it is missing, unreadable, or has another mode.
    """
    with reading_image(uid, view, file):
        # Not JPEG, which rounds what is stored, and whose decoder can be kept busy for hours.
        image = open_image(file.read(), MAX_VIEW_SIDE, ("PNG", "WEBP"))
        if image.mode not in modes:
            raise SampleError(f"{uid}: view {view}: expected mode {' or '.join(modes)} in {file}, got {image.mode}.")
        stored = np.asarray(image).astype(np.int32)
        return stored if stored.ndim == 3 else stored[..., None]


def reading_image(uid: str, view: int, file: StoredFile) -> AbstractContextManager[None]:
    """Whatever reading a view's image raises becomes a SampleError that names both."""
    return reraise_as(SampleError, f"{uid}: view {view}: expected a readable image in {file}")
