"""Meshes as GLB files that every viewer shows in their colours."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
import trimesh
from PIL import Image
from torch import Tensor
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from ouroboros3d.files import atomic_write
from ouroboros3d.renderers.textured_mesh import TexturedMesh


def save_glb(mesh: TexturedMesh, path: Path, extras: Mapping[str, str] | None = None) -> None:
    """Write a mesh of one texture as a binary glTF 2.0, with smooth normals.

    Its material is no metal (`metallicFactor` 0): glTF's default is, and shows black without surroundings to reflect.

    Args:
        mesh: of one material, with a texture; +Y up, as glTF has it.
        path: of the file.
        extras: what the file says of itself beside, by name.
    """
    (material,) = mesh.materials
    assert material.texture is not None
    # A vertex of glTF has one place in the texture: where charts meet it comes once for each of them.
    corners = torch.cat([mesh.faces.flatten()[:, None].double(), mesh.uv.flatten(0, 1).double()], dim=1)
    unique, index = corners.unique(dim=0, return_inverse=True)
    vertex = unique[:, 0].long()
    body = trimesh.Trimesh(
        mesh.vertices[vertex].numpy(),
        index.view(-1, 3).numpy(),
        vertex_normals=vertex_normals(mesh.vertices, mesh.faces)[vertex].numpy(),
        visual=TextureVisuals(
            uv=torch.stack([unique[:, 1], 1 - unique[:, 2]], dim=1).numpy(),  # trimesh's v runs upwards
            material=PBRMaterial(
                baseColorTexture=Image.fromarray(material.texture[..., :3].numpy()),
                metallicFactor=0.0,
                roughnessFactor=1.0,
                doubleSided=True,  # as the renderer shows it, and where it is not closed
            ),
        ),
        process=False,
        metadata=dict(extras or {}),
    )
    content = trimesh.Scene(body).export(file_type="glb", include_normals=True)
    with atomic_write(path) as part:
        part.write_bytes(content)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Smooth normals.

    Args:
        vertices: [P, 3].
        faces: [F, 3], counter-clockwise from outside.

    Returns:
        [P, 3] unit: the sum of the normals of the faces around, by area.
    """
    first, second, third = vertices[faces].unbind(dim=1)
    by_area = torch.linalg.cross(second - first, third - first).repeat_interleave(3, dim=0)
    return F.normalize(torch.zeros_like(vertices).index_add(0, faces.flatten(), by_area), dim=-1)
