"""Decoded views of objects at one square size, and which views of a ring lie evenly around them."""

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from ouroboros3d.cameras import Cameras, crop_intrinsics
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.posed import PosedObject
from ouroboros3d.datamodules.sources import Source

log = logging.getLogger(__name__)

Background = Literal["white", "grey", "black", "random"]

_LEVELS: dict[Background, float] = {"white": 1.0, "grey": 0.5, "black": 0.0, "random": 1.0}


def solid_colour(background: Background) -> Tensor:
    """The colour [3] of a background where nothing is drawn at random: `random` is white."""
    return torch.full((3,), _LEVELS[background])


class ObjectViews:
    """Views of objects at one square size, kept in memory up to a limit and read from disk beyond it.

    Images that are not square are padded with transparency, so that pixels stay square.

    Args:
        source: of the objects.
        image_size: height and width in pixels.
        memory_limit_mb: MiB of decoded views to keep, over all loading processes.
    """

    def __init__(self, source: Source, image_size: int, memory_limit_mb: int) -> None:
        self.source = source
        self.image_size = image_size
        self._limit = memory_limit_mb * 2**20
        self._kept: dict[tuple[str, int], Tensor] = {}

    def object(self, uid: str) -> PosedObject:
        """Cameras and files of an object, as stored.

        Raises:
            SampleError: a view or camera is missing or makes no sense.
        """
        return self.source.object(uid)

    def rgba(self, uid: str, views: Sequence[int]) -> Tensor:
        """Views [len(views), image_size, image_size, 4] of an object, uint8 with straight alpha.

        Raises:
            SampleError: a view is missing or unreadable.
        """
        return torch.stack([self._view(uid, view) for view in views])

    def cameras(self, uid: str) -> Cameras:
        """Cameras [F] of the square images of an object.

        Raises:
            SampleError: as `object`.
        """
        found = self.object(uid)
        height, width = found.size
        left, top, side = _square(height, width)
        # Padding is a crop beyond the image. Resizing changes nothing: intrinsics count in widths and heights.
        return Cameras(
            found.cameras.c2w_opencv,
            crop_intrinsics(
                found.cameras.intrinsics_norm,
                -left / width,
                -top / height,
                (side - left) / width,
                (side - top) / height,
            ),
        )

    def coordinates(self, uid: str, views: Sequence[int]) -> Tensor:
        """The surface points that views show, by their stored depth; NaN where there is none.

        A pixel has the point of the stored pixel that its centre lies in, since depth has no mean over an edge. A map
        that cannot be read is all NaN, and said: views are worth a test without it.

        Args:
            uid: the object.
            views: which of its views, all of which have depth.

        Returns:
            [len(views), image_size, image_size, 3] in the object's frame, scene units.
        """
        found = self.object(uid)
        assert found.depth is not None
        height, width = found.size
        left, top, side = _square(height, width)
        places = ((torch.arange(self.image_size) + 0.5) / self.image_size * side).floor().long()
        rows, columns = places[:, None] - top, places[None, :] - left  # of the stored image; some lie in the padding
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        rows, columns = (x.expand_as(inside) for x in (rows.clamp(0, height - 1), columns.clamp(0, width - 1)))
        uv_norm = torch.stack([(columns + 0.5) / width, (rows + 0.5) / height], dim=-1).flatten(0, 1)
        maps = torch.full((len(views), self.image_size, self.image_size, 3), torch.nan)
        for place, view in enumerate(views):
            try:
                depth = found.depth(view)[rows, columns]
            except SampleError as error:
                log.warning("%s; coordinate_error is not measured of this view", error)
                continue
            points = found.cameras[view].unproject(uv_norm, depth.flatten()).view_as(maps[place])
            maps[place] = torch.where((inside & (depth > 0))[..., None], points, torch.nan)
        return maps

    def _view(self, uid: str, view: int) -> Tensor:
        if (uid, view) in self._kept:
            return self._kept[uid, view]
        pixels = resized(self.object(uid).rgba(view), self.image_size)
        worker = get_worker_info()
        # What is kept is never dropped: all views are asked for alike, so none is worth another one's place.
        if (len(self._kept) + 1) * pixels.numel() * (worker.num_workers if worker else 1) <= self._limit:
            self._kept[uid, view] = pixels
        return pixels


def resized(rgba: Tensor, size: int) -> Tensor:
    """An image in the middle of a square of `size` pixels.

    Args:
        rgba: [H, W, 4] uint8, straight alpha; Pillow weighs colours by it.
        size: height and width of the result.
    """
    height, width = rgba.shape[:2]
    if height == width == size:
        return rgba
    left, top, side = _square(height, width)
    square = Image.new("RGBA", (side, side))
    square.paste(Image.fromarray(rgba.numpy()), (left, top))
    # Hamming is the nearest to the area averages of our own renders; Pillow's box filter drops partial pixels.
    smoothing = Image.Resampling.HAMMING if side >= size else Image.Resampling.BICUBIC
    return torch.from_numpy(np.asarray(square.resize((size, size), smoothing)).copy())


def _square(height: int, width: int) -> tuple[int, int, int]:
    """Where an image lies in the square that holds it: whole pixels of padding left and above, and the side."""
    side = max(height, width)
    return (side - width) // 2, (side - height) // 2, side


def spread(azimuth_deg: Tensor, ring: Sequence[int], start: int, count: int) -> list[int]:
    """Views of a ring whose azimuths are nearest to evenly spread ones from the start's on, each view once.

    On an even ring whose number of views `count` divides, these are exactly the evenly spread ones.

    Args:
        azimuth_deg: [F] of all views, growing with the angle around the vertical axis.
        ring: the views to choose among, at least `count`.
        start: place in the ring of the first one.
        count: how many.
    """
    free = list(ring)
    chosen = [free.pop(start)]
    first = float(azimuth_deg[chosen[0]])
    for step in range(1, count):
        wanted = first + 360 * step / count
        away = [abs((float(azimuth_deg[view]) - wanted + 180) % 360 - 180) for view in free]
        # Rounded, so that a tie does not hang on the last bit of an arc tangent.
        chosen.append(free.pop(min(range(len(free)), key=lambda place: round(away[place], 3))))
    return chosen
