"""Mesh files of any format to `TexturedMesh`."""

from dataclasses import replace
from pathlib import Path

import torch

from ouroboros3d.cameras import y_up_from_z_up
from ouroboros3d.datamodules.meshes.errors import AssetError
from ouroboros3d.datamodules.meshes.glb import load_glb
from ouroboros3d.datamodules.meshes.obj import load_obj
from ouroboros3d.datamodules.meshes.ply import load_mesh_ply
from ouroboros3d.renderers.meshes import TexturedMesh

_READERS = {".glb": load_glb, ".obj": load_obj, ".ply": load_mesh_ply}


def load_mesh(path: Path, z_up: bool = False) -> TexturedMesh:
    """Read every triangle of a file, by its suffix.

    Args:
        path: `.glb`, `.obj` or `.ply`.
        z_up: whether the file's world is Z-up.

    Returns:
        The mesh in the internal world (+Y up), not normalised.

    Raises:
        AssetError: the file cannot be read or holds no usable triangles: one line with path, expected and found.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise AssetError(f"{path}: expected one of {', '.join(_READERS)}, got {path.suffix or 'no suffix'}.")
    mesh = reader(path)
    if not z_up:
        return mesh
    x, y, z = y_up_from_z_up(torch.tensor(mesh.origin, dtype=torch.float64)).tolist()
    return replace(mesh, vertices=y_up_from_z_up(mesh.vertices), origin=(x, y, z))
