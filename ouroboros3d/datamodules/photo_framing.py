"""A plain photo as input: any image file to the framing and background that the model was trained on."""

import hashlib
import importlib
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.cameras import ORBIT_FOV_DEG, ORBIT_RADIUS, Cameras
from ouroboros3d.datamodules.untrusted import (
    IMAGE_FORMATS,
    MAX_ASSET_BYTES,
    MAX_PHOTO_SIDE,
    UntrustedError,
    open_image,
    read_regular,
    reraise_as,
)
from ouroboros3d.datamodules.views import Background, solid_colour

Removal = Literal["border", "rembg"]
Photo = Path | Image.Image

log = logging.getLogger(__name__)

# What cameras, phones and editors write; Pillow reads more, with external programs among its ways.
_FORMATS = (*IMAGE_FORMATS, "GIF", "BMP", "TIFF", "AVIF")
# Share of the frame that the longer side of an object's silhouette takes: the median over renders of the bundled
# objects under the default rig (0.82; 90 % of the views lie between 0.66 and 0.91).
FILL = 0.82
# Photos are worked on at this longest side: far above what the networks see, small enough to search in an instant.
_WORK_SIZE = 512
# Largest difference in any channel between two pixels of one background; hides JPEG noise and soft gradients.
_TOLERANCE = 0.1
# Share of border pixels that must agree for the background to count as uniform; the object may touch the border.
_BORDER_SHARE = 0.75
# Share of the photo that alpha must take away to be the shape of an object, and no accident of an editor or a rounded
# corner of a window.
_CUT_SHARE = 5e-3
# Below this share of the photo the foreground is dust.
_SMALLEST_SHARE = 5e-4


def load_photo(
    photo: Photo, image_size: int, background: Background = "white", removal: Removal = "border"
) -> tuple[Tensor, Tensor]:
    """Read a photo, cut the object out, and frame it as the training renders are.

    Args:
        photo: a PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF file, or Pillow's image, in any mode but floats; the first
            frame of an animation, turned upright by its EXIF tag, the higher 8 of 16 bits a channel, in sRGB by the
            colour profile in it.
        image_size: height and width of the result in pixels.
        background: what the object is composited on; `random` is white here.
        removal: how the object is found where alpha cuts nothing out: `border` takes everything that is
            connected to the image border and of its colour as background, `rembg` asks that package's network U2-Net.

    Returns:
        the image [3, H, W] in [0, 1] on `background`, and alpha [1, H, W].

    Raises:
        ValueError: the file cannot be read or is too large, nothing is in the foreground, the background is not
            uniform, or `rembg` is asked for and not installed or without its network; one line.
    """
    path = _path(photo)
    image = _cut_out(read_photo(photo), path, removal)
    framed = _frame(image, image_size, path)
    rgba = torch.from_numpy(np.asarray(framed, dtype=np.float32) / 255).permute(2, 0, 1)
    alpha = rgba[3:]
    colour = solid_colour(background)[:, None, None]
    return rgba[:3] * alpha + colour * (1 - alpha), alpha


def photo_batch(
    photo: Photo,
    *,
    image_size: int,
    num_views: int,
    background: Background = "white",
    removal: Removal = "border",
    elevation_deg: float = 10.0,
    radius: float = ORBIT_RADIUS,
    fov_deg: float = ORBIT_FOV_DEG,
) -> MultiviewBatch:
    """A batch of one photo: one known view, and the cameras of the orbit to generate.

    Args:
        photo: as in `load_photo`.
        image_size: as in `load_photo`.
        num_views: V.
        background: as in `load_photo`.
        removal: as in `load_photo`.
        elevation_deg: how far above the object the photo was taken, an assumption; it only levels the result.
        radius: distance of the cameras, as in training.
        fov_deg: the whole field of view in degrees, as in training.

    Returns:
        images [1, 1, 3, H, W], cameras [1, V], no targets. Its name, which its noise follows from, is the file's
        without ending, or the hash of the pixels of an image that was read from no file.

    Raises:
        ValueError: as `load_photo`.
    """
    rgb, alpha = load_photo(photo, image_size, background, removal)
    azimuth_deg = [360 / num_views * view for view in range(num_views)]
    orbit = Cameras.orbit(azimuth_deg, elevation_deg, radius, fov_deg)
    cameras, object_from_batch = orbit.reshape(1, num_views).relative_to_first()
    return MultiviewBatch(
        uids=(_name(photo),),
        images_01=rgb[None, None],
        alpha=alpha[None, None],
        cameras=cameras,
        target_images_01=torch.zeros(1, 0, 3, image_size, image_size),
        target_alpha=torch.zeros(1, 0, 1, image_size, image_size),
        target_cameras=cameras[:, :0],
        background=solid_colour(background)[None],
        object_from_batch=object_from_batch,
    ).validate()


def _path(photo: Photo) -> Path:
    """The file, for messages `image` where there is none."""
    return photo if isinstance(photo, Path) else Path(str(getattr(photo, "filename", None) or "image"))


def _name(photo: Photo) -> str:
    if isinstance(photo, Path) or getattr(photo, "filename", None):
        return _path(photo).stem
    return hashlib.sha256(photo.tobytes()).hexdigest()[:16]


def read_photo(photo: Photo) -> Image.Image:
    """The photo as RGB or RGBA of 8 bits, upright, at most `_WORK_SIZE` pixels long."""
    path = _path(photo)
    with reraise_as(UntrustedError, f"{path}: expected a readable image"), _large_images():
        try:
            if isinstance(photo, Path):
                image = open_image(read_regular(photo, MAX_ASSET_BYTES), MAX_PHOTO_SIDE, _FORMATS)
                image.draft(None, (2 * _WORK_SIZE, 2 * _WORK_SIZE))  # a large JPEG is decoded to no more than it takes
                ImageOps.exif_transpose(image, in_place=True)
            else:
                photo.seek(0)
                image = ImageOps.exif_transpose(photo)  # a copy
        except UnidentifiedImageError as error:
            raise UntrustedError(
                f"{path}: expected an image file ({', '.join(_FORMATS)}), got another format; save it as PNG."
            ) from error
        image.load()
        if image.mode == "F":
            raise UntrustedError(f"{path}: expected 8 or 16 bits a channel, got floats; save it as PNG.")
        profile = image.info.get("icc_profile")
        if image.mode.startswith("I"):  # Pillow clips 16-bit grey when it converts
            levels = np.array(image, dtype=np.float32)
            levels /= 257  # and what follows in place: a large photo is a GiB of them
            image = Image.fromarray(levels.clip(0, 255, out=levels).round(out=levels).astype(np.uint8))
        modes = ["LA", "RGBA"] if image.has_transparency_data else ["L", "CMYK", "RGB"]
        if image.mode not in modes:  # else it would be copied
            image = image.convert("LA" if image.mode == "L" else modes[-1])
        image.thumbnail((_WORK_SIZE, _WORK_SIZE), Image.Resampling.BICUBIC)
        return _in_srgb(image, profile, path)


def _in_srgb(image: Image.Image, profile: bytes | None, path: Path) -> Image.Image:
    """Grey, RGB or CMYK, with alpha or without, as RGB or RGBA in sRGB.

    A profile that is broken, or of other channels than the image has, is left out of account, as browsers do.
    """
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    if profile:
        try:
            stored = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = stored.profile.xcolor_space.strip()
            # A grey image may have the profile of colours that are all grey.
            grey = space == "GRAY" and image.mode in ("L", "LA")
            flat = image if space == image.mode == "CMYK" else image.convert("L" if grey else "RGB")
            converted = ImageCms.profileToProfile(
                flat,
                stored,
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
            assert converted is not None  # as it is where an image is converted in place
            image = converted
        except (ImageCms.PyCMSError, OSError) as error:
            log.warning(
                "%s: its colour profile cannot be used (%s); taken as sRGB.", path, " ".join(str(error).split())
            )
    image = image if image.mode == "RGB" else image.convert("RGB")
    if alpha is not None:
        image.putalpha(alpha)
    return image


@contextmanager
def _large_images() -> Iterator[None]:
    """Pillow's own limit, which photos of 108 megapixels pass, out of the way of `MAX_PHOTO_SIDE`."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PHOTO_SIDE**2
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _cut_out(image: Image.Image, path: Path, removal: Removal) -> Image.Image:
    """The image as RGBA whose alpha is the object."""
    if image.mode == "RGBA" and (np.asarray(image)[..., 3] < 128).mean() >= _CUT_SHARE:
        return image
    image = image.convert("RGB")
    if removal == "rembg":
        rembg, network = _rembg()
        image.putalpha(rembg.remove(image, session=network, only_mask=True))
    else:
        image.putalpha(Image.fromarray(_border_mask(np.asarray(image), path)))
    return image


@cache
def _rembg() -> tuple[Any, Any]:
    """The package and its network; which one is its default differs between releases.

    Raises:
        ValueError: one of them is missing.
    """
    try:
        package = importlib.import_module("rembg")
    except (ImportError, SystemExit) as error:  # it wants to end the process where onnxruntime is missing
        raise ValueError(
            "removal: expected the package rembg with onnxruntime, got none; pip install 'ouroboros3d[rembg]', or use "
            "removal='border'."
        ) from error
    expected = "removal: expected rembg's u2net.onnx in its folder ($U2NET_HOME), or a connection to download it"
    with reraise_as(UntrustedError, expected):
        return package, package.new_session("u2net")


def _border_mask(rgb: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    """255 where a pixel is not background, that is: of the border's colour and connected to the border."""
    border = np.ones(rgb.shape[:2], dtype=bool)
    border[1:-1, 1:-1] = False
    similar = np.abs(rgb - np.median(rgb[border], axis=0)).max(axis=2) < 255 * _TOLERANCE
    if similar[border].mean() < _BORDER_SHARE:
        raise ValueError(
            f"{path}: expected a transparent or a uniform background, got {similar[border].mean():.0%} of the border "
            "in one colour; cut the object out (PNG with transparency), or remove the background with rembg."
        )
    background = _reach(similar, similar & border)
    return np.where(background, 0, 255).astype(np.uint8)


def _reach(passable: NDArray[np.bool_], seeds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels connected to the seeds through passable ones (4 neighbours)."""
    reached, count = seeds & passable, -1
    while count != (count := int(reached.sum())):
        # Several steps per count, which costs as much as a step.
        for _ in range(8):
            grown = reached.copy()
            grown[1:] |= reached[:-1]
            grown[:-1] |= reached[1:]
            grown[:, 1:] |= reached[:, :-1]
            grown[:, :-1] |= reached[:, 1:]
            reached = grown & passable
    return reached


def _frame(image: Image.Image, image_size: int, path: Path) -> Image.Image:
    """The object centred in a square, its silhouette's longer side `FILL` of it."""
    alpha = np.asarray(image)[..., 3]
    visible = alpha > 127
    inner = np.zeros_like(visible)
    inner[1:-1, 1:-1] = visible[1:-1, 1:-1] & visible[:-2, 1:-1] & visible[2:, 1:-1]
    inner[1:-1, 1:-1] &= visible[1:-1, :-2] & visible[1:-1, 2:]
    # Specks of noise have no inner pixel; they must not decide what the frame is.
    solid = _reach(visible, inner) if inner.any() else visible
    if solid.sum() < max(1, _SMALLEST_SHARE * solid.size):
        raise ValueError(
            f"{path}: expected an object that stands out from its background, found none; "
            "give an image with transparency, or one whose background has another colour than the object."
        )
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    side = max(right - left, bottom - top) / FILL
    # Where the object ends between two pixels does not matter at work size, so the square's corner is rounded.
    square = max(1, round(side))
    corner = (round((left + right - square) / 2), round((top + bottom - square) / 2))
    image.putalpha(Image.fromarray(np.where(visible & ~solid, 0, alpha).astype(np.uint8)))
    crop = image.crop((*corner, corner[0] + square, corner[1] + square))
    # Hamming is the nearest to the area averages of the training renders; Pillow's box filter drops partial pixels.
    smoothing = Image.Resampling.HAMMING if square >= image_size else Image.Resampling.BICUBIC
    return crop.resize((image_size, image_size), smoothing)
