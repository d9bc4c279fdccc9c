"""Folders of small GLB files, shapes that differ and one that eats memory, and a worker for harmless ones."""

import json
import struct
from pathlib import Path

import trimesh

from ouroboros3d.datamodules.rendering.jobs import RenderJob, RenderResult
from ouroboros3d.datamodules.rendering.worker import render_object


def slab(index: int) -> bytes:
    """A slab with a cube on one of its corners: neither symmetric nor centred."""
    body = trimesh.creation.box([2.0 + index, 0.6, 1.2])
    knob = trimesh.creation.box([0.5] * 3)
    knob.apply_translation([0.6, 0.55, 0.3])
    for mesh, colour in ((body, [40, 60 + 12 * index, 160, 255]), (knob, [255, 0, 0, 255])):
        mesh.visual = trimesh.visual.TextureVisuals(
            material=trimesh.visual.material.PBRMaterial(baseColorFactor=colour, alphaMode="OPAQUE")
        )
    content = trimesh.Scene([body, knob]).export(file_type="glb")
    assert isinstance(content, bytes)
    return content


def memory_hog() -> bytes:
    """A valid file of some hundred bytes that stands for sixty million vertices, all of them zero."""
    tree = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}] * 10}],
        "accessors": [
            {"componentType": 5126, "count": 6_000_000, "type": "VEC3"},
            {"componentType": 5123, "count": 3, "type": "SCALAR"},
        ],
    }
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<4sIIII", b"glTF", 2, 20 + len(text), len(text), 0x4E4F534A) + text


def write_meshes(root: Path, files: dict[str, bytes]) -> Path:
    """A plain folder of GLB files."""
    root.mkdir(parents=True)
    for uid, content in files.items():
        (root / f"{uid}.glb").write_bytes(content)
    return root


class Here:
    """Renders in this process: a worker for objects that are known to be harmless."""

    closed = False

    def run(self, job: RenderJob) -> RenderResult:
        return render_object(job)

    def kill(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True
