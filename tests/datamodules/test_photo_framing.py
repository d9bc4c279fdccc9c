import math
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules import photo_framing as photo_module
from ouroboros3d.datamodules.photo_framing import FILL, load_photo, photo_batch

SIZE = 64


def picture(width: int = 200, height: int = 120, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """A red bar with a blue block at its right end, wide and away from the middle: every turn and flip shows."""
    image = Image.new("RGB", (width, height), background)
    image.paste((200, 30, 30), (20, 30, 100, 60))
    image.paste((20, 40, 220), (80, 30, 100, 60))
    return image


def check(rgb: torch.Tensor, alpha: torch.Tensor, tolerance: float = 0.02) -> None:
    """The bar of 80 x 30 pixels, centred, 80 pixels being FILL of the frame, blue on the right."""
    assert rgb.shape == (3, SIZE, SIZE)
    assert alpha.shape == (1, SIZE, SIZE)
    rows, columns = (alpha[0] > 0.5).nonzero(as_tuple=True)
    extent = torch.stack([columns.max() - columns.min() + 1, rows.max() - rows.min() + 1]).float()
    # To whole pixels of the result, at each of two edges.
    assert (extent - FILL * SIZE * torch.tensor([1, 30 / 80])).abs().max() <= 1.5
    centre = torch.stack([columns.max() + columns.min() + 1, rows.max() + rows.min() + 1]) / 2
    assert (centre - SIZE / 2).abs().max() <= 1
    left, right = rgb[:, SIZE // 2, SIZE // 4], rgb[:, SIZE // 2, int(SIZE * 0.8)]
    torch.testing.assert_close(left, torch.tensor([200, 30, 30]) / 255, atol=tolerance, rtol=0)
    torch.testing.assert_close(right, torch.tensor([20, 40, 220]) / 255, atol=tolerance, rtol=0)
    assert (rgb[:, 2, 2] == 1).all()


@pytest.mark.parametrize("background", [(255, 255, 255), (128, 130, 120), (0, 0, 0)])
def test_uniform_background(tmp_path: Path, background: tuple[int, int, int]) -> None:
    picture(background=background).save(tmp_path / "a.png")
    check(*load_photo(tmp_path / "a.png", SIZE))


@pytest.mark.parametrize(
    ("name", "mode", "tolerance"),
    [
        ("a.jpg", "RGB", 0.05),  # JPEG's own loss
        ("a.webp", "RGB", 0.08),
        ("a.bmp", "RGB", 0.02),
        ("a.tif", "CMYK", 0.02),
        ("a.avif", "RGB", 0.08),
        ("a.mpo", "RGB", 0.05),  # what phones with two lenses call a JPEG
        ("cmyk.jpg", "CMYK", 0.05),
        ("p.png", "P", 0.02),
        ("a.gif", "P", 0.02),
    ],
)
def test_file_types_and_modes(tmp_path: Path, name: str, mode: str, tolerance: float) -> None:
    image = picture().quantize(8) if mode == "P" else picture().convert(mode)
    image.save(tmp_path / name)
    check(*load_photo(tmp_path / name, SIZE), tolerance)


def test_transparency_is_the_mask(tmp_path: Path) -> None:
    image = picture(background=(90, 10, 90)).convert("RGBA")
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (20, 30, 100, 60))
    image.putalpha(mask)
    image.save(tmp_path / "a.png")
    rgb, alpha = load_photo(tmp_path / "a.png", SIZE)
    check(rgb, alpha)
    # Nothing of the colour under the transparent pixels leaks into the rim.
    rim = (alpha > 0) & (alpha < 1)
    assert rim.any()
    grey, _ = load_photo(tmp_path / "a.png", SIZE, background="black")
    torch.testing.assert_close(rgb - grey, (1 - alpha).expand(3, -1, -1), atol=1e-6, rtol=0)
    image.quantize(16).save(tmp_path / "palette.png")
    check(*load_photo(tmp_path / "palette.png", SIZE))
    (tmp_path / "deep.png").write_bytes(png_16(np.asarray(image, dtype=np.uint16) * 257, 6))
    torch.testing.assert_close(load_photo(tmp_path / "deep.png", SIZE), (rgb, alpha), atol=0, rtol=0)
    image.convert("LA").save(tmp_path / "grey.png")
    torch.testing.assert_close(load_photo(tmp_path / "grey.png", SIZE)[1], alpha, atol=0, rtol=0)


def test_a_transparent_colour_of_a_palette_is_the_background(tmp_path: Path) -> None:
    image = picture(background=(90, 10, 90)).quantize(8)
    image.save(tmp_path / "a.png", transparency=image.getpixel((0, 0)))
    check(*load_photo(tmp_path / "a.png", SIZE))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_photo_upright(tmp_path: Path, orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = picture() if orientation == 1 else picture().transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    check(*load_photo(tmp_path / "a.jpg", SIZE), 0.05)


def png_16(values: np.ndarray, colour_type: int) -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write in colour; values [H, W, C] uint16."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_sixteen_bits_a_channel(tmp_path: Path) -> None:
    pixels = np.asarray(picture(), dtype=np.uint16) * 257
    (tmp_path / "deep.png").write_bytes(png_16(pixels, 2))
    picture().save(tmp_path / "flat.png")
    deep, flat = (load_photo(tmp_path / name, SIZE)[0] for name in ("deep.png", "flat.png"))
    torch.testing.assert_close(deep, flat, atol=0, rtol=0)


def test_grey_in_1_8_and_16_bits(tmp_path: Path) -> None:
    levels = np.full((120, 200), 60000, dtype=np.uint16)
    levels[30:60, 20:100] = 20000
    Image.fromarray(levels).save(tmp_path / "deep.png")
    Image.fromarray((levels // 257).astype(np.uint8)).save(tmp_path / "flat.png")
    deep, flat = (load_photo(tmp_path / name, SIZE)[0] for name in ("deep.png", "flat.png"))
    torch.testing.assert_close(deep, flat, atol=1 / 255, rtol=0)
    torch.testing.assert_close(deep[:, 32, 32], torch.full((3,), 20000 / 65535), atol=2 / 255, rtol=0)
    Image.fromarray(levels > 40000).save(tmp_path / "bits.png")
    bits, alpha = load_photo(tmp_path / "bits.png", SIZE)
    assert (bits[:, 32, 32] == 0).all()
    torch.testing.assert_close(alpha, load_photo(tmp_path / "flat.png", SIZE)[1], atol=0, rtol=0)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_first_frame_of_an_animation(name: str, tmp_path: Path) -> None:
    other = Image.new("RGB", (200, 120), (0, 255, 0))
    picture().save(tmp_path / name, save_all=True, append_images=[other])
    with Image.open(tmp_path / name) as animation:
        assert animation.n_frames == 2
    check(*load_photo(tmp_path / name, SIZE), 0.08)


@pytest.mark.parametrize("scale", [0.1, 12])
def test_tiny_and_large_photos(tmp_path: Path, scale: float) -> None:
    image = picture().resize((round(200 * scale), round(120 * scale)), Image.Resampling.NEAREST)
    image.save(tmp_path / "a.png")
    rgb, alpha = load_photo(tmp_path / "a.png", SIZE)
    # 0.82 * 0.82 * 30 / 80 = 0.252; 8 x 3 source pixels in a square of 10 instead of 9.76 are 0.24
    assert 0.235 < alpha.mean() < 0.265
    assert rgb[0, 32, 16] > rgb[2, 32, 16]
    assert rgb[2, 32, 52] > rgb[0, 32, 52]


def test_noise_and_specks_do_not_move_the_frame(tmp_path: Path) -> None:
    pixels = np.asarray(picture()).astype(int) + np.random.default_rng(0).integers(-12, 13, (120, 200, 3))
    pixels[110, 190] = 0
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "a.png")
    check(*load_photo(tmp_path / "a.png", SIZE), 0.06)


def test_holes_of_the_background_colour_belong_to_the_object(tmp_path: Path) -> None:
    image = picture()
    image.paste((255, 255, 255), (50, 40, 70, 50))
    image.save(tmp_path / "a.png")
    _, alpha = load_photo(tmp_path / "a.png", SIZE)
    assert alpha[0, 32, 32] == 1


def test_what_is_no_usable_photo(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing.png: expected a readable image, got .*No such file"):
        load_photo(tmp_path / "missing.png", SIZE)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="expected an image file"):
        load_photo(tmp_path / "text.png", SIZE)
    picture().save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    with pytest.raises(ValueError, match="expected a readable image"):
        load_photo(tmp_path / "cut.png", SIZE)
    with pytest.raises(ValueError, match="expected a readable image"):
        load_photo(tmp_path, SIZE)
    Image.new("RGB", (50, 50), (9, 99, 9)).save(tmp_path / "plain.png")
    with pytest.raises(ValueError, match="stands out from its background, found none"):
        load_photo(tmp_path / "plain.png", SIZE)
    Image.new("RGBA", (50, 50), (9, 99, 9, 0)).save(tmp_path / "clear.png")
    with pytest.raises(ValueError, match="found none"):
        load_photo(tmp_path / "clear.png", SIZE)
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    with pytest.raises(ValueError, match=r"transparent or a uniform background, got \d+% of the border"):
        load_photo(tmp_path / "noise.png", SIZE)
    Image.fromarray(np.zeros((20, 20), dtype=np.float32)).save(tmp_path / "floats.tif")
    with pytest.raises(ValueError, match="got floats"):
        load_photo(tmp_path / "floats.tif", SIZE)


def test_what_would_hang_or_fill_the_memory_is_refused_unread(tmp_path: Path) -> None:
    dot = png_16(np.zeros((1, 1, 3), dtype=np.uint16), 2)
    for name, width, height in (("bomb.png", 60_000, 60_000), ("long.png", 17_000, 9_000)):
        header = b"IHDR" + struct.pack(">II", width, height) + dot[24:29]
        (tmp_path / name).write_bytes(dot[:12] + header + struct.pack(">I", zlib.crc32(header)) + dot[33:])
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(2**40)
    picture().save(tmp_path / "program.eps")  # which Pillow would hand to Ghostscript
    for name, expected in [
        ("bomb.png", "3600000000 pixels"),
        ("long.png", "17000 x 9000 pixels, expected at most 16384 a side"),
        ("pipe.png", "no regular file"),
        ("zero.png", "no regular file"),
        ("huge.png", "1099511627776 bytes"),
        ("program.eps", "got another format; save it as PNG"),
    ]:
        with pytest.raises(ValueError, match=expected) as error:
            load_photo(tmp_path / name, SIZE)
        assert str(error.value).startswith(f"{tmp_path / name}: expected a")
        assert "\n" not in str(error.value)


def test_photos_of_200_megapixels_are_within_the_limits(tmp_path: Path) -> None:
    pillows = Image.MAX_IMAGE_PIXELS
    dot = png_16(np.zeros((1, 1, 3), dtype=np.uint16), 2)
    header = b"IHDR" + struct.pack(">II", 16_384, 16_384) + bytes([1, 0, 0, 0, 0])  # grey of one bit
    (tmp_path / "cut.png").write_bytes(dot[:12] + header + struct.pack(">I", zlib.crc32(header)) + dot[33:])
    with pytest.raises(ValueError, match=r"expected a readable image, got .*truncated"):
        load_photo(tmp_path / "cut.png", SIZE)
    picture().resize((9_000, 5_400), Image.Resampling.NEAREST).save(tmp_path / "a.jpg")
    check(*load_photo(tmp_path / "a.jpg", SIZE), 0.05)
    assert Image.MAX_IMAGE_PIXELS == pillows


def test_an_image_that_is_given_stays_as_it_is(tmp_path: Path) -> None:
    picture().resize((2_400, 1_440), Image.Resampling.NEAREST).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        check(*load_photo(image, SIZE), 0.05)
        assert (image.size, image.mode) == ((2_400, 1_440), "RGB")


def test_tiny_and_thin_images_have_nothing_in_the_foreground(tmp_path: Path) -> None:
    for size in ((1, 1), (2, 1), (1, 700), (3000, 1)):
        Image.new("RGB", size, (9, 99, 9)).save(tmp_path / "a.png")
        with pytest.raises(ValueError, match="stands out from its background, found none"):
            load_photo(tmp_path / "a.png", SIZE)


@pytest.fixture
def rembg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a package of that name may be written; whatever is installed under it is out of sight."""
    photo_module._rembg.cache_clear()
    monkeypatch.delitem(sys.modules, "rembg", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "rembg.py"
    photo_module._rembg.cache_clear()
    sys.modules.pop("rembg", None)


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ("raise ImportError('no rembg')", r"got none; pip install 'ouroboros3d\[rembg\]', or use removal='border'"),
        ("import sys; sys.exit(1)  # as without onnxruntime", r"with onnxruntime, got none; pip install"),
        ("def new_session(name): raise ConnectionError('no way\\n out')", r"u2net.onnx .* ConnectionError: no way out"),
    ],
)
def test_what_rembg_lacks_is_one_line(rembg: Path, package: str, expected: str, tmp_path: Path) -> None:
    rembg.write_text(package)
    picture().save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=expected) as error:
        load_photo(tmp_path / "a.png", SIZE, removal="rembg")
    assert str(error.value).startswith("removal: expected ")
    assert "\n" not in str(error.value)


def test_batch_of_one_photo(tmp_path: Path) -> None:
    picture().save(tmp_path / "bar.png")
    batch = photo_batch(tmp_path / "bar.png", image_size=SIZE, num_views=4, elevation_deg=20, background="grey")
    batch.validate()
    assert batch.uids == ("bar",)
    assert batch.images_01.shape == (1, 1, 3, SIZE, SIZE)
    assert batch.cameras.shape == (1, 4)
    assert batch.target_images_01.shape == (1, 0, 3, SIZE, SIZE)
    assert (batch.images_01[0, 0, :, 0, 0] == 0.5).all()
    first = Cameras.orbit([0.0], 0.0, 1.7417, 39.598)
    torch.testing.assert_close(batch.cameras.c2w_opencv[0, :1], first.c2w_opencv, atol=1e-6, rtol=0)
    # Levelled by the assumed elevation: all cameras are equally high above the object.
    heights = batch.cameras.transform(batch.object_from_batch[:, None]).centres[0, :, 1]
    expected = 1.7417 * math.sin(math.radians(20))
    torch.testing.assert_close(heights, torch.full((4,), expected), atol=1e-5, rtol=0)
