"""Textures of one asset, decoded from image files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ouroboros3d.datamodules.meshes.errors import AssetError
from ouroboros3d.datamodules.untrusted import (
    IMAGE_FORMATS,
    MAX_TEXTURE_PIXELS,
    MAX_TEXTURE_SIDE,
    open_image,
    reraise_as,
)


class Textures:
    """The textures of an asset, each decoded once; all together they are bounded.

    Args:
        path: of the asset, for messages.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decoded: dict[str, Tensor] = {}
        self._pixels = 0

    def decoded(self, name: str, read: Callable[[], bytes], formats: tuple[str, ...] = IMAGE_FORMATS) -> Tensor:
        """Decode a texture to [H, W, 4] uint8, sRGB and straight alpha, or take it from those that were.

        Args:
            name: of the image, unique in the asset.
            read: gives the content of its file.
            formats: that it may have, by Pillow's names.

        Raises:
            AssetError: another file, or too many pixels in it or in all textures.
        """
        if name not in self._decoded:
            content = read()
            expected = f"{', '.join(formats[:-1])} or {formats[-1]}"
            with reraise_as(AssetError, f"{self._path}: {name}: expected an image ({expected})"):
                image = open_image(content, MAX_TEXTURE_SIDE, formats)
                self._pixels += image.width * image.height
                if self._pixels > MAX_TEXTURE_PIXELS:
                    raise AssetError(
                        f"{self._path}: expected at most {MAX_TEXTURE_PIXELS} pixels in all textures, got more."
                    )
                self._decoded[name] = torch.from_numpy(_rgba(image))
        return self._decoded[name]


def _rgba(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip at 255
        grey = (np.asarray(image).astype(np.int32) >> 8).clip(0, 255).astype(np.uint8)
        return np.stack([grey, grey, grey, np.full_like(grey, 255)], axis=-1)
    return np.array((image.convert("RGB") if image.mode == "CMYK" else image).convert("RGBA"))
