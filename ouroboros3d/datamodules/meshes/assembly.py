"""From the numbers of a mesh file to a `TexturedMesh`: what every format must hold in the end."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from ouroboros3d.datamodules.meshes.errors import AssetError
from ouroboros3d.datamodules.untrusted import MAX_ASSET_BYTES, MAX_COORDINATE, MAX_FACES, read_regular
from ouroboros3d.renderers.textured_mesh import Material, TexturedMesh, faces_with_area
from ouroboros3d.renderers.textures import srgb_to_linear

_INVISIBLE = 0.5 / 255  # alphas below it are 0 in every image
_FAR = 64.0  # object sizes from the origin, at which float32 knows the shape to a few thousandths of a pixel of 512
_MOST_NOTES = 20  # of a file; hostile ones could have a million
# Above 1 by rounding at most, or brighter than any file of 0 to 1; what lies between could be either.
_ROUNDED, _OF_BYTES = 1.01, 2.0


def unit_range(values: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Colours or alphas in [0, 1], from any of the ranges in use.

    Args:
        values: whole numbers of 0 to 255 or 0 to 65535, or floats of 0 to 1 or 0 to 255.
        name: of what they are, for messages.

    Raises:
        ValueError: none of these ranges: clamped, all would be white.
    """
    if not values.size:
        return values.astype(np.float64)
    least, most = float(values.min()), float(values.max())
    whole = values.dtype.kind in "iu"
    if whole:
        limit = 255.0 if most <= 255 else 65535.0
    else:
        limit = 1.0 if most <= _ROUNDED else 255.0 if most >= _OF_BYTES else 0.0
    if not (0 <= least + _ROUNDED - 1 and most <= limit * _ROUNDED):  # NaN fails too
        expected = "0 to 255 or 0 to 65535" if whole else "0 to 1 or 0 to 255"
        raise ValueError(f"{name} from {least:g} to {most:g} where {expected} was expected; write them in that range")
    return (values / limit).clip(0, 1)


def textured_mesh(
    fail: Callable[[str], NoReturn],
    vertices: NDArray[np.float64],
    faces: NDArray[np.int64],
    uv: NDArray[np.floating],
    material_index: NDArray[np.int64],
    materials: Sequence[Material],
    colours_linear: NDArray[np.floating],
    notes: tuple[str, ...] = (),
    rounded: NDArray[np.float64] | None = None,
) -> TexturedMesh:
    """The mesh of these triangles, without unused vertices and what lets all light through.

    Args:
        fail: raises the asset's error.
        vertices: [P, 3].
        faces: [F, 3] into the vertices.
        uv: [F, 3, 2] texture coordinates with (0, 0) the image's upper left corner.
        material_index: [F] into the materials.
        materials: at least one.
        colours_linear: [P, 4] linear RGB and alpha in [0, 1].
        notes: what the file says beside what is shown.
        rounded: [P] the largest coordinate that each vertex was rounded to single precision at, in the scene's units;
            None for no rounding.

    Raises:
        UntrustedError: the asset's error: no triangles or too many, an index or a number out of range, or an object
            without a size.
    """
    if not 0 < len(faces) <= MAX_FACES:
        fail(f"expected 1 to {MAX_FACES} triangles, got {len(faces) or 'none, perhaps a point cloud'}")
    if vertices.shape[1:] != (3,) or faces.shape[1:] != (3,):
        fail(f"expected vertices and triangles of 3 numbers, got {list(vertices.shape)} and {list(faces.shape)}")
    if not (0 <= faces.min() and faces.max() < len(vertices)):
        fail(f"expected indices of {len(vertices)} vertices, got {faces.min()} to {faces.max()}")
    if colours_linear.shape != (len(vertices), 4):
        fail(f"expected a colour of 4 numbers for each of {len(vertices)} vertices, got {list(colours_linear.shape)}")
    factors = np.array([material.base_colour_linear for material in materials])
    for values in (factors, colours_linear):
        if not (0 <= values.min() and values.max() <= 1):
            fail(f"expected colours in [0, 1], got {values.min():g} to {values.max():g}")
    drawn = _drawn(faces, material_index, materials, colours_linear)
    if not drawn.any():
        fail("expected something to see, got materials and colours that let all light through")
    faces, uv, material_index = faces[drawn], uv[drawn], material_index[drawn]
    used, flat = np.unique(faces, return_inverse=True)
    vertices, colours, flat = vertices[used], colours_linear[used], flat.reshape(-1, 3)
    if not float(np.abs(vertices).max()) < MAX_COORDINATE:  # NaN fails too
        fail(f"expected finite vertices, got NaN, infinity or beyond {MAX_COORDINATE:g}")
    vertices, origin = _near_the_origin(fail, vertices, flat, None if rounded is None else rounded[used])
    if not float(np.abs(uv).max()) < MAX_COORDINATE:
        fail(f"expected finite texture coordinates, got NaN, infinity or beyond {MAX_COORDINATE:g}")
    return TexturedMesh(
        vertices=torch.from_numpy(vertices.astype(np.float32)),
        faces=torch.from_numpy(flat),
        uv=torch.from_numpy(uv.astype(np.float32)),
        material_index=torch.from_numpy(material_index),
        materials=tuple(materials),
        vertex_colours_linear=None if (colours == 1).all() else torch.from_numpy(colours.astype(np.float32)),
        origin=origin,
        notes=tuple("".join(one if one.isprintable() else " " for one in note) for note in notes[:_MOST_NOTES]),
    )


def _drawn(
    faces: NDArray[np.int64],
    material_index: NDArray[np.int64],
    materials: Sequence[Material],
    colours: NDArray[np.floating],
) -> NDArray[np.bool_]:
    """[F] whether a face is drawn at all, by the alpha of its material, the texture's most, and its corners'."""
    least = np.zeros(len(materials))
    alpha = np.ones(len(materials))
    for index, material in enumerate(materials):
        if material.alpha_mode != "OPAQUE":
            texture = 1.0 if material.texture is None else int(material.texture[..., 3].max()) / 255
            alpha[index] = material.base_colour_linear[3] * texture
            least[index] = material.alpha_cutoff if material.alpha_mode == "MASK" else _INVISIBLE
    drawn: NDArray[np.bool_] = (alpha >= least)[material_index]
    faint = (least > 0)[material_index] & drawn
    if faint.any():
        own = material_index[faint]
        drawn[faint] = alpha[own] * colours[faces[faint], 3].max(axis=1) >= least[own]
    return drawn


def _near_the_origin(
    fail: Callable[[str], NoReturn],
    vertices: NDArray[np.float64],
    faces: NDArray[np.int64],
    rounded: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float64], tuple[float, float, float]]:
    """Vertices whose differences survive single precision, and where their zero lies: moved where the object is far.

    Hidden by a scale of 0, or in a point anyway, faces without an area do not count.
    """
    seen = faces_with_area(torch.from_numpy(vertices), torch.from_numpy(faces)).numpy()
    counted = np.unique(faces[seen] if seen.any() else faces)
    low, high = vertices[counted].min(axis=0), vertices[counted].max(axis=0)
    extent, largest = float((high - low).max()), float(np.abs([low, high]).max())
    # Of what is known to so many digits only, less would be no shape any more.
    stored = 0.0 if rounded is None else float(rounded[counted].max())
    if extent <= max(1e-5 * stored, 1e-12 * largest, 1 / MAX_COORDINATE):
        fail(f"expected an object with a size, got an extent of {extent:g}, {largest:g} from the origin")
    if not seen.any():
        fail(f"expected faces with an area, got {len(faces)} without")
    if largest < _FAR * extent:
        return vertices, (0.0, 0.0, 0.0)
    x, y, z = ((low + high) / 2).tolist()
    return vertices - (x, y, z), (x, y, z)


class MeshFile:
    """The bytes of a mesh file, and what becomes of the triangles in it.

    Args:
        path: the file.

    Raises:
        AssetError: no such file, or a larger one than any honest object needs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.data = read_regular(path, MAX_ASSET_BYTES)
        except OSError as error:
            self.fail(f"expected a readable file, got {error.strerror or type(error).__name__}")

    def fail(self, reason: str) -> NoReturn:
        """Raise AssetError for this file."""
        raise AssetError(f"{self.path}: {reason}.")

    def mesh(
        self,
        vertices: NDArray[np.float64],
        faces: NDArray[np.int64],
        *,
        uv: NDArray[np.float64] | None = None,
        material_index: NDArray[np.int64] | None = None,
        materials: Sequence[Material] = (Material(),),
        colours_srgb: NDArray[np.float64] | None = None,
        notes: tuple[str, ...] = (),
        rounded: NDArray[np.float64] | None = None,
    ) -> TexturedMesh:
        """The mesh of these triangles, without unused vertices.

        Args:
            vertices: [P, 3].
            faces: [F, 3] into the vertices.
            uv: [F, 3, 2] texture coordinates with (0, 0) the image's upper left corner; None for none.
            material_index: [F] into the materials; None for the first.
            materials: at least one.
            colours_srgb: [P, 4] sRGB and alpha in [0, 1]; None for white.
            notes: what the file says beside what is shown.
            rounded: as in `textured_mesh`.

        Raises:
            AssetError: no triangles, an index or a number out of range, or an object without a size.
        """
        return textured_mesh(
            self.fail,
            vertices,
            faces,
            np.zeros((len(faces), 3, 2)) if uv is None else uv,
            np.zeros(len(faces), np.int64) if material_index is None else material_index,
            materials,
            np.ones((len(vertices), 4)) if colours_srgb is None else _linear(colours_srgb),
            notes,
            rounded,
        )


def _linear(colours_srgb: NDArray[np.float64]) -> NDArray[np.floating]:
    colours = torch.from_numpy(colours_srgb.astype(np.float32)).clamp(0, 1)
    return torch.cat([srgb_to_linear(colours[:, :3]), colours[:, 3:]], dim=1).numpy()
