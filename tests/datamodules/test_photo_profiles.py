"""Colour profiles, written here from ICC.1's own terms: photos under them come out in the sRGB that they mean."""

import logging
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from ouroboros3d.datamodules.photo_framing import load_photo

SIZE = 64
COLOURS = np.array([(200, 60, 40), (40, 160, 60)])  # inside of every gamut below
GREYS = np.array([(80, 80, 80), (150, 150, 150)])
# Chromaticities of red, green, blue and white, and the exponent of the curve.
D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)
SPACES = {
    "Display P3": ([(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)], D65, 2.2),
    "Adobe RGB": ([(0.640, 0.330), (0.210, 0.710), (0.150, 0.060)], D65, 2.2),
    "ProPhoto": ([(0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)], D50, 1.8),
}
SRGB = [(0.640, 0.330), (0.300, 0.600), (0.150, 0.060)]
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def xyz(chromaticity: tuple[float, float]) -> NDArray[np.float64]:
    x, y = chromaticity
    return np.array([x / y, 1, (1 - x - y) / y])


def to_d50(primaries: list[tuple[float, float]], white: tuple[float, float]) -> NDArray[np.float64]:
    """[3, 3] linear RGB to XYZ under the white that profiles count from (Bradford's adaptation)."""
    columns = np.stack([xyz(one) for one in primaries], axis=1)
    matrix = columns * np.linalg.solve(columns, xyz(white))
    cones = BRADFORD @ xyz(white), BRADFORD @ xyz(D50)
    return np.linalg.inv(BRADFORD) @ np.diag(cones[1] / cones[0]) @ BRADFORD @ matrix


def linear(srgb: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2: header, table of tags, tags."""
    tags = {
        b"desc": b"desc" + struct.pack(">II", 0, 5) + b"mine\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"nobody\0",
        b"wtpt": fixed(xyz(D50)),
        **tags,
    }
    offset = 132 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", offset + len(body), len(content))
        body += content
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    connection = b"Lab " if space == b"CMYK" else b"XYZ "
    header = struct.pack(
        ">I4sI4s4s4s", 132 + len(table) - 4 + len(body), b"\0" * 4, 0x02400000, kind, space, connection
    )
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += struct.pack(">3i", *(round(value * 65536) for value in xyz(D50)))
    return header.ljust(128, b"\0") + table + body


def fixed(values: NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def curve(exponent: float) -> bytes:
    return b"curv" + struct.pack(">IIH", 0, 1, round(exponent * 256))


def rgb_profile(name: str) -> bytes:
    primaries, white, exponent = SPACES[name]
    matrix = to_d50(primaries, white)
    tags = {f"{letter}XYZ".encode(): fixed(column) for letter, column in zip("rgb", matrix.T, strict=True)}
    return profile(b"RGB ", tags | {f"{letter}TRC".encode(): curve(exponent) for letter in "rgb"})


def stored(name: str, srgb: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The numbers that stand for sRGB colours in a space."""
    primaries, white, exponent = SPACES[name]
    light = linear(srgb / 255) @ to_d50(SRGB, D65).T @ np.linalg.inv(to_d50(primaries, white)).T
    assert (light >= 0).all()
    return (light ** (1 / exponent) * 255).round().astype(np.uint8)


def photo(colours: NDArray[np.uint8], background: int = 255) -> Image.Image:
    """An object of two colours that takes 96 of 160 pixels of a plain background, white in every space."""
    pixels = np.full((160, 160, colours.shape[1]), background, np.uint8)
    pixels[40:120, 32:80], pixels[40:120, 80:128] = colours
    return Image.fromarray(pixels[..., 0] if colours.shape[1] == 1 else pixels)


def seen(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The two colours [2, 3] of 0 to 255, and alpha."""
    rgb, alpha = load_photo(path, SIZE)
    return torch.stack([rgb[:, 32, 20], rgb[:, 32, 44]]) * 255, alpha


def close(found: torch.Tensor, expected: NDArray[np.int64], tolerance: float = 3) -> None:
    torch.testing.assert_close(found, torch.tensor(expected).float(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
def test_colours_are_those_that_the_profile_means(name: str, kind: str, tmp_path: Path) -> None:
    numbers = stored(name, COLOURS)
    assert np.abs(numbers.astype(int) - COLOURS).max() > 12  # without the profile they would be others
    options = {"quality": 100, "subsampling": 0} if kind == "jpg" else {"lossless": True} if kind == "webp" else {}
    photo(numbers).save(tmp_path / f"a.{kind}", icc_profile=rgb_profile(name), **options)
    photo(COLOURS.astype(np.uint8)).save(tmp_path / "plain.png")
    colours, alpha = seen(tmp_path / f"a.{kind}")
    close(colours, COLOURS)
    torch.testing.assert_close(alpha, seen(tmp_path / "plain.png")[1], atol=0.05 if kind == "jpg" else 0, rtol=0)


def test_with_alpha_with_a_palette_and_an_image_that_is_given(tmp_path: Path) -> None:
    numbers, embedded = stored("Display P3", COLOURS), rgb_profile("Display P3")
    image = photo(numbers)
    image.quantize(8).save(tmp_path / "palette.png", icc_profile=embedded)
    close(seen(tmp_path / "palette.png")[0], COLOURS)
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (32, 40, 128, 120))
    image.putalpha(mask)
    image.save(tmp_path / "cut.png", icc_profile=embedded)
    colours, alpha = seen(tmp_path / "cut.png")
    close(colours, COLOURS)
    assert alpha[0, 0, 0] == 0
    with Image.open(tmp_path / "cut.png") as given:
        rgb, _ = load_photo(given, SIZE)
        close(torch.stack([rgb[:, 32, 20], rgb[:, 32, 44]]) * 255, COLOURS)
        assert given.info["icc_profile"] == embedded


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_profiles(mode: str, tmp_path: Path) -> None:
    numbers = (linear(GREYS[:, :1] / 255) ** (1 / 1.4) * 255).round().astype(np.uint8)
    image = photo(numbers)
    if mode == "LA":
        mask = Image.new("L", image.size, 0)
        mask.paste(255, (32, 40, 128, 120))
        image.putalpha(mask)
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    image.save(tmp_path / "a.png", icc_profile=profile(b"GRAY", {b"kTRC": curve(1.4)}))
    close(seen(tmp_path / "a.png")[0], GREYS)


def test_grey_under_a_profile_of_colours(tmp_path: Path) -> None:
    numbers = (linear(GREYS[:, :1] / 255) ** (1 / 1.8) * 255).round().astype(np.uint8)
    photo(numbers).save(tmp_path / "a.png", icc_profile=rgb_profile("ProPhoto"))
    close(seen(tmp_path / "a.png")[0], GREYS)


def test_inks(tmp_path: Path) -> None:
    """A press whose black ink alone is a grey of half the lightness, which no formula without its profile knows."""
    table = np.zeros((2, 2, 2, 2, 3), np.uint16)  # cyan, magenta, yellow, black -> L, a, b
    table[..., 0], table[..., 1:] = 0xFF00, 0x8000
    table[..., 1, 0] = 0xFF00 // 2
    ramps = struct.pack(">HH", 0, 0xFFFF)
    lut = b"mft2" + bytes(4) + bytes([4, 3, 2, 0]) + struct.pack(">9i", *(np.eye(3, dtype=int) * 65536).flatten())
    lut += struct.pack(">HH", 2, 2) + ramps * 4 + table.astype(">u2").tobytes() + ramps * 3
    inks = np.array([(0, 0, 0, 255), (0, 0, 0, 128)], np.uint8)
    pixels = np.zeros((160, 160, 4), np.uint8)
    pixels[40:120, 32:80], pixels[40:120, 80:128] = inks
    image = Image.frombytes("CMYK", (160, 160), pixels.tobytes())
    image.save(tmp_path / "a.tif", icc_profile=profile(b"CMYK", {b"A2B0": lut}))
    lightness = 100 - 50 / 255 * inks[:, 3]
    luminance = ((lightness + 16) / 116) ** 3
    expected = 255 * (1.055 * luminance ** (1 / 2.4) - 0.055)
    close(seen(tmp_path / "a.tif")[0], np.stack([expected] * 3, axis=1), 1)


@pytest.mark.parametrize(
    "embedded", [b"no profile", rgb_profile("ProPhoto")[:200], profile(b"GRAY", {b"kTRC": curve(1.4)})]
)
def test_a_profile_that_cannot_be_used_is_told_and_left_out(
    embedded: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photo(COLOURS.astype(np.uint8)).save(tmp_path / "a.png", icc_profile=embedded)
    with caplog.at_level(logging.WARNING):
        close(seen(tmp_path / "a.png")[0], COLOURS, 1)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path / 'a.png'}: its colour profile cannot be used (")
    assert record.getMessage().endswith("; taken as sRGB.")
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize("case", ["one pixel of 254", "all of 200", "corners of a window", "noise"])
def test_an_alpha_that_cuts_nothing_out_counts_as_none(case: str, tmp_path: Path) -> None:
    image = photo(COLOURS.astype(np.uint8))
    image.save(tmp_path / "plain.png")
    alpha = np.full((160, 160), 255, np.uint8)
    if case == "one pixel of 254":
        alpha[3, 5] = 254
    elif case == "all of 200":
        alpha[:] = 200
    elif case == "corners of a window":
        for row in (0, -1):
            alpha[row, [0, 1, -2, -1]] = 0
    else:
        alpha -= np.random.default_rng(0).integers(0, 9, alpha.shape, dtype=np.uint8)
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "a.png")
    for found, expected in zip(
        load_photo(tmp_path / "a.png", SIZE), load_photo(tmp_path / "plain.png", SIZE), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=0, rtol=0)
