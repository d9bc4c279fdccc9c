"""One OBJ or PLY file: its bytes, and what becomes of the triangles in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from ouroboros3d.datamodules.meshes.assembly import textured_mesh
from ouroboros3d.datamodules.meshes.glb_container import AssetError
from ouroboros3d.datamodules.untrusted import MAX_ASSET_BYTES, read_regular
from ouroboros3d.renderers.meshes import Material, TexturedMesh
from ouroboros3d.renderers.textures import srgb_to_linear


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
