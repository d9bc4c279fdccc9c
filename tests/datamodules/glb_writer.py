"""Writes GLB files byte by byte from glTF 2.0's own terms, without the reader's code or trimesh."""

import io
import json
import struct
from typing import Any

import numpy as np
from PIL import Image

TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
COMPONENTS = {"int8": 5120, "uint8": 5121, "int16": 5122, "uint16": 5123, "uint32": 5125, "float32": 5126}


class Glb:
    """A file in the making: `tree` is its JSON, free to be edited before `content` is asked for."""

    def __init__(self) -> None:
        self.binary = b""
        self.tree: dict[str, Any] = {
            "asset": {"version": "2.0"},
            "scene": 0,
            "scenes": [{"nodes": []}],
            **{kind: [] for kind in ("nodes", "meshes", "accessors", "bufferViews", "materials", "textures", "images")},
            "samplers": [],
        }

    def add(self, kind: str, entry: dict[str, Any]) -> int:
        self.tree[kind].append(entry)
        return len(self.tree[kind]) - 1

    def view(self, data: bytes) -> int:
        self.binary += b"\0" * (-len(self.binary) % 4)
        self.binary += data
        return self.add(
            "bufferViews", {"buffer": 0, "byteOffset": len(self.binary) - len(data), "byteLength": len(data)}
        )

    def accessor(self, values: Any, dtype: str = "float32", **extra: Any) -> int:
        array = np.asarray(values, dtype)
        entry = {
            "bufferView": self.view(array.tobytes()),
            "componentType": COMPONENTS[dtype],
            "count": len(array),
            "type": TYPES[array[0].size],
        }
        return self.add("accessors", entry | extra)

    def image(self, pixels: Any, kind: str = "PNG") -> int:
        return self.add("images", {"bufferView": self.view(encoded(pixels, kind)), "mimeType": f"image/{kind.lower()}"})

    def material(self, pixels: Any = None, factor: Any = (1, 1, 1, 1), sampler: Any = None, **extra: Any) -> int:
        base: dict[str, Any] = {"baseColorFactor": list(factor)}
        if pixels is not None:
            texture = {"source": self.image(pixels)}
            if sampler is not None:
                texture["sampler"] = self.add("samplers", sampler)
            base["baseColorTexture"] = {"index": self.add("textures", texture)}
        return self.add("materials", {"pbrMetallicRoughness": base} | extra)

    def mesh(self, vertices: Any, faces: Any = None, **primitive: Any) -> int:
        """Keyword arguments in capitals are further attributes (accessors), the others belong to the primitive."""
        attributes = {"POSITION": self.accessor(vertices)}
        attributes |= {name: primitive.pop(name) for name in list(primitive) if name.isupper() or name[-1].isdigit()}
        if faces is not None:
            primitive["indices"] = self.accessor(np.reshape(faces, (-1, 1)), "uint16")
        return self.add("meshes", {"primitives": [{"attributes": attributes} | primitive]})

    def node(self, parent: int | None = None, **entry: Any) -> int:
        index = self.add("nodes", entry)
        if parent is None:
            self.tree["scenes"][0]["nodes"].append(index)
        else:
            self.tree["nodes"][parent].setdefault("children", []).append(index)
        return index

    def content(self) -> bytes:
        tree = {"buffers": [{"byteLength": len(self.binary)}]} | {k: v for k, v in self.tree.items() if v != []}
        return packed(json.dumps(tree).encode(), self.binary)


def packed(text: bytes, binary: bytes, version: int = 2) -> bytes:
    """Header, JSON chunk and binary chunk."""
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x004E4942) + binary
    return struct.pack("<4sII", b"glTF", version, 12 + len(chunks)) + chunks


def encoded(pixels: Any, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels, np.uint8))
    image.save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return stream.getvalue()


TRIANGLE = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.5]]


def one_triangle() -> Glb:
    """The smallest object: a triangle in one node."""
    glb = Glb()
    glb.node(mesh=glb.mesh(TRIANGLE, [0, 1, 2]))
    return glb


def textured_square() -> Glb:
    """A square facing +Z with a 2 x 2 texture: red, green / blue, white."""
    glb = Glb()
    pixels = [[[255, 0, 0, 255], [0, 255, 0, 255]], [[0, 0, 255, 255], [255, 255, 255, 255]]]
    mesh = glb.mesh(
        [[-1, 1, 0], [-1, -1, 0], [1, -1, 0], [1, 1, 0]],
        [0, 1, 2, 0, 2, 3],
        TEXCOORD_0=glb.accessor([[0, 0], [0, 1], [1, 1], [1, 0]]),
        material=glb.material(pixels),
    )
    glb.node(mesh=mesh)
    return glb
