"""The images of one object, view by view: missing, empty, cut off, or with a background baked in."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.readers.errors import NoTransparency, SampleError
from ouroboros3d.datamodules.readers.posed import PosedObject, PosedReader
from ouroboros3d.inspection.camera_checks.silhouette_fit import views_to_test
from ouroboros3d.inspection.camera_checks.tangency import SIZE
from ouroboros3d.inspection.camera_checks.visual_hull import on_border

# Soft pixels between object and background; outside of these alpha says too little about colours.
_SOFT = (16, 240)
_ROUNDING = 3  # levels of 255
# A colour mixed with black is never brighter than its alpha. Straight colours of a mid-grey object break this in half
# of the soft pixels, of a bright one in nearly all; 200 pixels with less than 2 % that do are no coincidence, unless
# the object itself is so dark that none could.
_MIXED_SHARE, _MIXED_PIXELS, _MIXED_MARGIN = 0.02, 200, 64


@dataclass
class Images:
    """What the images of one object show.

    Args:
        uid: the object.
        error: why it cannot be read at all; None if it can.
        unreadable: of single views, why.
        views: F.
        size: height and width in pixels.
        empty: views that show nothing.
        clipped: views whose object reaches the border.
        opaque: views without any transparency.
        paper: the colour around the object in opaque views: `black`, `white` or `a background`; empty for none.
        mixed: `black` or `white` if soft pixels hold colours already mixed with it; empty for straight alpha.
        digest: of all pixels that can be seen; equal for equal objects.
        cameras: [F], None if the object cannot be read.
    """

    uid: str
    error: SampleError | None = None
    unreadable: dict[int, str] = field(default_factory=dict)
    views: int = 0
    size: tuple[int, int] = (0, 0)
    empty: list[int] = field(default_factory=list)
    clipped: list[int] = field(default_factory=list)
    opaque: list[int] = field(default_factory=list)
    paper: str = ""
    mixed: str = ""
    digest: str = ""
    cameras: Cameras | None = None

    @property
    def usable(self) -> bool:
        """Whether every view can be read and has a silhouette."""
        return self.cameras is not None and not self.unreadable and not self.opaque


def inspect_views(reader: PosedReader, uid: str) -> tuple[Images, Tensor | None]:
    """Read all views of an object.

    Args:
        reader: of the tree.
        uid: the object.

    Returns:
        what they show, and alpha [T, h, w] in [0, 1], with at most 128 pixels a side, of the views that cameras are
        tested with; None where a view has none.
    """
    images = Images(uid)
    try:
        found = reader.read(uid)
    except SampleError as error:
        images.error = error
        return images, None
    images.views, images.size, images.cameras = len(found), found.size, found.cameras
    alphas: list[Tensor] = []
    tested = set(views_to_test(len(found)))
    digests: list[bytes] = []
    fringe = _Fringe()
    for view in range(len(found)):
        if (rgba := _view(found, view, images)) is None:
            continue
        pixels = rgba.numpy()
        alpha = pixels[..., 3]
        if alpha.min() == 255:
            images.opaque.append(view)
            images.paper = images.paper or _paper(pixels)
        if view in tested:
            alphas.append(_small(rgba[..., 3].float() / 255))
        if not (alpha > 127).any():
            images.empty.append(view)
        elif alpha.min() < 255 and bool(on_border(rgba[None, ..., 3].float() / 255)):
            images.clipped.append(view)
        fringe.add(pixels)
        digests.append(hashlib.blake2b(np.where(alpha[..., None] > 0, pixels, 0).tobytes(), digest_size=16).digest())
    images.mixed = fringe.verdict()
    # In any order: a copy under another name may be sorted otherwise.
    images.digest = hashlib.blake2b(b"".join(sorted(digests)), digest_size=16).hexdigest()
    return images, torch.stack(alphas) if images.usable else None


def _view(found: PosedObject, view: int, images: Images) -> Tensor | None:
    try:
        return found.rgba(view)
    except NoTransparency:
        images.opaque.append(view)
        images.paper = images.paper or "a background"
    except SampleError as error:
        images.unreadable[view] = str(error)
    return None


def _small(alpha: Tensor) -> Tensor:
    """A view [H, W] at no more than `SIZE` pixels a side, areas averaged."""
    height, width = alpha.shape
    shrink = max(1.0, max(height, width) / SIZE)
    size = (max(1, round(height / shrink)), max(1, round(width / shrink)))
    return torch.nn.functional.adaptive_avg_pool2d(alpha[None], size)[0]


def _paper(pixels: NDArray[np.uint8]) -> str:
    """The colour along the border of an opaque view."""
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])[:, :3]
    middle = np.median(rim, axis=0)
    if middle.max() <= 8:
        return "black"
    return "white" if middle.min() >= 247 else "a background"


class _Fringe:
    """Counts, over many views, the soft pixels whose colour could be mixed with black or with white."""

    def __init__(self) -> None:
        self.soft = self.over_black = self.over_white = 0
        self.colour_sum, self.solid = np.zeros(2), 0

    def add(self, pixels: NDArray[np.uint8]) -> None:
        alpha = pixels[..., 3].astype(np.int16)
        brightest, darkest = (
            pixels[..., :3].max(axis=-1).astype(np.int16),
            pixels[..., :3].min(axis=-1).astype(np.int16),
        )
        soft, solid = (alpha > _SOFT[0]) & (alpha < _SOFT[1]), alpha == 255
        self.soft += int(soft.sum())
        self.over_black += int((brightest[soft] > alpha[soft] + _ROUNDING).sum())
        self.over_white += int((255 - darkest[soft] > alpha[soft] + _ROUNDING).sum())
        self.colour_sum += [brightest[solid].sum(), (255 - darkest[solid]).sum()]
        self.solid += int(solid.sum())

    def verdict(self) -> str:
        if self.soft < _MIXED_PIXELS or not self.solid:
            return ""
        for name, over, colour in zip(
            ("black", "white"), (self.over_black, self.over_white), self.colour_sum, strict=True
        ):
            if over < _MIXED_SHARE * self.soft and colour / self.solid > _MIXED_MARGIN:
                return name
        return ""
