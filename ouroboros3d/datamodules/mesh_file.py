"""One OBJ or PLY file: its bytes, and what becomes of the triangles in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from ouroboros3d.datamodules.glb import MAX_FACES
from ouroboros3d.datamodules.glb_container import MAX_FILE_BYTES, AssetError
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
            size = path.stat().st_size
            if size > MAX_FILE_BYTES:
                self.fail(f"expected at most {MAX_FILE_BYTES} bytes, got {size}")
            self.data = path.read_bytes()
        except OSError as error:
            self.fail(f"expected a readable file, got {error.strerror or type(error).__name__}")

    def fail(self, reason: str) -> NoReturn:
        """Raise AssetError for this file."""
        raise AssetError(f"{self.path}: {' '.join(reason.split())}.")

    def mesh(
        self,
        vertices: NDArray[np.float64],
        faces: NDArray[np.int64],
        *,
        uv: NDArray[np.float64] | None = None,
        material_index: NDArray[np.int64] | None = None,
        materials: Sequence[Material] = (Material(),),
        colours_srgb: NDArray[np.float64] | None = None,
    ) -> TexturedMesh:
        """The mesh of these triangles, without unused vertices.

        Args:
            vertices: [P, 3].
            faces: [F, 3] into the vertices.
            uv: [F, 3, 2] texture coordinates with (0, 0) the image's upper left corner; None for none.
            material_index: [F] into the materials; None for the first.
            materials: at least one.
            colours_srgb: [P, 4] sRGB and alpha in [0, 1]; None for white.

        Raises:
            AssetError: no triangles, an index out of range, or an object without a size.
        """
        if not 0 < len(faces) <= MAX_FACES:
            self.fail(f"expected 1 to {MAX_FACES} triangles, got {len(faces) or 'none, perhaps a point cloud'}")
        if not (0 <= faces.min() and faces.max() < len(vertices)):
            self.fail(f"expected indices of {len(vertices)} vertices, got {faces.min()} to {faces.max()}")
        used, flat = np.unique(faces, return_inverse=True)
        vertices = vertices[used]
        if not np.abs(vertices).max() < 1e30:  # NaN fails too
            self.fail("expected finite vertices, got NaN, infinity or beyond 1e30")
        extent = float(np.ptp(vertices, axis=0).max())
        if extent <= 1e-5 * float(np.abs(vertices).max()):  # float32 keeps 7 digits: less would be no shape any more
            self.fail(f"expected an object with a size, got an extent of {extent:g}")
        return TexturedMesh(
            vertices=torch.from_numpy(vertices.astype(np.float32)),
            faces=torch.from_numpy(flat.reshape(-1, 3)),
            uv=torch.zeros(len(faces), 3, 2) if uv is None else torch.from_numpy(uv.astype(np.float32)),
            material_index=torch.zeros(len(faces), dtype=torch.int64)
            if material_index is None
            else torch.from_numpy(material_index),
            materials=tuple(materials),
            vertex_colours_linear=None if colours_srgb is None else _linear(colours_srgb[used]),
        )


def _linear(colours_srgb: NDArray[Any]) -> torch.Tensor:
    colours = torch.from_numpy(colours_srgb.astype(np.float32)).clamp(0, 1)
    return torch.cat([srgb_to_linear(colours[:, :3]), colours[:, 3:]], dim=1)
