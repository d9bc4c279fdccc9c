"""GLB files (Objaverse's format) to `TexturedMesh`; whatever is wrong with a file becomes one `AssetError`.

Read here and not through trimesh, which is lenient where ground truth must not be: it fills sparse and unknown data
with zeros, drops triangle fans, the sampler's wrap modes and undecodable textures in silence, and keeps colour factors
in 8 bits. The tests compare the two on files that both can read.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ouroboros3d.datamodules.glb_container import AssetError, GlbContainer
from ouroboros3d.datamodules.glb_materials import MaterialUse, read_material
from ouroboros3d.datamodules.mesh_parts import textured_mesh
from ouroboros3d.datamodules.texture_files import Textures
from ouroboros3d.datamodules.untrusted import MAX_FACES, MAX_PARTS, refusing
from ouroboros3d.renderers.meshes import Material, TexturedMesh

_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_BRIGHTEST = 2.0  # a colour above 1 is light that is cut off, but as many as that are of another range
# What may be required and is still read right: it does not change the base colour, or is handled.
_KNOWN_EXTENSIONS = frozenset({
    "KHR_texture_transform", "KHR_mesh_quantization", "KHR_materials_unlit", "KHR_materials_pbrSpecularGlossiness",
    "EXT_texture_webp", "KHR_materials_specular", "KHR_materials_ior", "KHR_materials_clearcoat",
    "KHR_materials_transmission", "KHR_materials_emissive_strength", "KHR_materials_volume", "KHR_materials_sheen",
    "KHR_lights_punctual",
})  # fmt: skip

__all__ = ["AssetError", "load_glb"]


def load_glb(path: Path) -> TexturedMesh:
    """Read every triangle of a binary glTF 2.0 file's default scene.

    Node transforms are baked, skins and morph targets take their rest pose; cameras, lights, lines and points are left
    out. A part with a texture but no texture coordinates samples it at (0, 0), as viewers do.

    Args:
        path: the file; textures that are not inside it must lie in its folder.

    Returns:
        The mesh in glTF's world (+Y up, +Z front), not normalised, without unused vertices.

    Raises:
        AssetError: the file cannot be read or holds no usable triangles: one line with path, expected and found.
    """
    # What overflows is refused where it ends: among the vertices and texture coordinates.
    with refusing(AssetError, f"{path}: expected valid glTF 2.0"), np.errstate(all="ignore"):
        return _SceneReader(GlbContainer(path)).read()


class _SceneReader:
    """Walks the default scene of one file and gathers its triangles."""

    def __init__(self, glb: GlbContainer) -> None:
        unknown = set(glb.tree.get("extensionsRequired", [])) - _KNOWN_EXTENSIONS
        if unknown:
            glb.fail(f"expected plain glTF, got the required extensions {sorted(unknown)}; convert it first")
        self.glb = glb
        self.world: dict[int, NDArray[np.float64]] = {}
        self.textures = Textures(glb.path)
        self.uses: dict[int | None, tuple[int, MaterialUse]] = {}
        self.vertices: list[NDArray[np.float64]] = []
        self.faces: list[NDArray[np.int64]] = []
        self.uv: list[NDArray[np.float32]] = []
        self.colours: list[NDArray[np.float32]] = []
        self.material_index: list[NDArray[np.int64]] = []
        self.vertex_count = self.face_count = self.part_count = 0

    def read(self) -> TexturedMesh:
        """Everything, in one mesh."""
        for node in self._nodes():
            mesh = self.glb.item("meshes", node["mesh"]) if "mesh" in node else {"primitives": []}
            for primitive in mesh["primitives"]:
                self._count_part()
                if primitive.get("mode", _TRIANGLES) in (_TRIANGLES, _STRIP, _FAN):
                    self._add(primitive, node, node.get("weights", mesh.get("weights", [])))
        if self.face_count == 0:
            self.glb.fail("expected triangles in its scene, got no faces")
        return textured_mesh(
            self.glb.fail,
            np.concatenate(self.vertices),
            np.concatenate(self.faces),
            np.concatenate(self.uv),
            np.concatenate(self.material_index),
            [use.material for _, use in self.uses.values()],
            np.concatenate(self.colours),
        )

    def _count_part(self) -> None:
        self.part_count += 1
        if self.part_count > MAX_PARTS:
            self.glb.fail(f"expected at most {MAX_PARTS} nodes and primitives, got more")

    def _nodes(self) -> list[dict[str, Any]]:
        """Nodes of the default scene, their world transforms in `world`; without a scene, every mesh once."""
        tree = self.glb.tree
        if not tree.get("scenes"):
            return [{"mesh": index} for index in range(len(tree.get("meshes", [])))]
        scene = self.glb.item("scenes", tree.get("scene", 0))
        nodes: list[dict[str, Any]] = []
        stack = [(index, np.eye(4)) for index in reversed(scene.get("nodes", []))]
        while stack:
            index, parent = stack.pop()
            self._count_part()
            node = self.glb.item("nodes", index)
            if index in self.world:
                self.glb.fail(f"expected a tree of nodes, got node {index} twice")
            self.world[index] = parent @ _local_matrix(node)
            nodes.append({**node, "index": index})
            stack += [(child, self.world[index]) for child in reversed(node.get("children", []))]
        return nodes

    def _add(self, primitive: dict[str, Any], node: dict[str, Any], weights: list[float]) -> None:
        """Append one primitive in world coordinates."""
        if "KHR_draco_mesh_compression" in primitive.get("extensions", {}):
            self.glb.fail("expected uncompressed geometry, got KHR_draco_mesh_compression; decompress the file first")
        attributes = primitive["attributes"]
        position = self._attribute(attributes, "POSITION", (3,)).astype(np.float64)
        count = len(position)
        for weight, target in zip(weights, primitive.get("targets", []), strict=False):  # missing weights are 0
            if weight and "POSITION" in target:
                position = position + float(weight) * self._attribute(target, "POSITION", (3,), count)
        matrix = self._placement(attributes, node, count)
        faces = self._triangles(primitive, count)
        if np.linalg.det(matrix[0, :3, :3]) < 0:  # a mirroring node turns the winding (glTF 2.0, 3.7.4)
            faces = faces[:, ::-1]
        slot, use = self._material(primitive.get("material"))
        uv = np.zeros((count, 2))
        if f"TEXCOORD_{use.texcoord}" in attributes:
            uv = self._attribute(attributes, f"TEXCOORD_{use.texcoord}", (2,), count).astype(np.float64)
        uv = uv @ use.uv_matrix[:, :2].T + use.uv_matrix[:, 2]
        colours = np.ones((count, 4), np.float32)
        if "COLOR_0" in attributes:
            values = self._attribute(attributes, "COLOR_0", (3, 4), count)
            if values.dtype.kind == "f" and values.max(initial=0) > _BRIGHTEST:
                self.glb.fail(
                    f"COLOR_0: expected colours in [0, 1], got up to {values.max():g}; write them in that range"
                )
            limit = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1  # integers without `normalized`
            colours[:, : values.shape[1]] = (values.astype(np.float32) / limit).clip(0, 1)
        self.vertices.append((matrix[:, :3, :3] @ position[:, :, None])[:, :, 0] + matrix[:, :3, 3])
        self.faces.append(faces + self.vertex_count)
        self.uv.append(uv.astype(np.float32)[faces])
        self.colours.append(colours)
        self.material_index.append(np.full(len(faces), slot, np.int64))
        self.vertex_count += count

    def _attribute(
        self, attributes: dict[str, Any], name: str, widths: tuple[int, ...], count: int | None = None
    ) -> NDArray[Any]:
        """A vertex attribute [count, width], finite."""
        values = self.glb.accessor(attributes[name])
        if values.shape[1] not in widths or (count is not None and len(values) != count):
            self.glb.fail(f"{name}: expected {count or 'some'} rows of {widths} numbers, got {list(values.shape)}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            self.glb.fail(f"{name}: expected finite numbers, got NaN or infinity in accessors[{attributes[name]}]")
        return values

    def _placement(self, attributes: dict[str, Any], node: dict[str, Any], count: int) -> NDArray[np.float64]:
        """Local to world, [1, 4, 4], or [count, 4, 4] where a skin moves each vertex by its joints' rest pose."""
        if "skin" not in node or "JOINTS_0" not in attributes:
            return self.world.get(node.get("index", -1), np.eye(4))[None]
        skin = self.glb.item("skins", node["skin"])
        if len(skin["joints"]) > MAX_PARTS:
            self.glb.fail(f"expected at most {MAX_PARTS} joints of a skin, got {len(skin['joints'])}")
        self.glb.spend(16 * len(skin["joints"]))
        joints = np.stack([self.world[joint] for joint in skin["joints"]])
        if "inverseBindMatrices" in skin:
            stored = self.glb.accessor(skin["inverseBindMatrices"]).astype(np.float64)
            joints = joints @ stored.reshape(-1, 4, 4).transpose(0, 2, 1)[: len(joints)]
        which = self._attribute(attributes, "JOINTS_0", (4,), count).astype(np.int64)
        share = self._attribute(attributes, "WEIGHTS_0", (4,), count).astype(np.float64)
        share = share / share.sum(axis=1, keepdims=True).clip(min=1e-12)
        placed: NDArray[np.float64] = np.einsum("vj,vjab->vab", share, joints[which])
        return placed

    def _triangles(self, primitive: dict[str, Any], count: int) -> NDArray[np.int64]:
        """[F, 3] vertex indices of a triangle list, strip or fan."""
        if "indices" in primitive:
            stored = self.glb.accessor(primitive["indices"])
            if stored.shape[1] != 1 or stored.dtype.kind not in "iu":
                self.glb.fail(f"indices: expected whole numbers, got {stored.dtype} rows of {stored.shape[1]}")
            order = stored[:, 0].astype(np.int64)
        else:
            order = np.arange(count)
        if len(order) and not (0 <= order.min() and order.max() < count):
            self.glb.fail(f"indices: expected 0 to {count - 1}, got {order.min()} to {order.max()}: out of range")
        mode = primitive.get("mode", _TRIANGLES)
        if mode == _TRIANGLES:
            if len(order) % 3:
                self.glb.fail(f"indices: expected a multiple of 3, got {len(order)}")
            faces = order.reshape(-1, 3)
        elif mode == _STRIP:
            faces = np.stack([order[:-2], order[1:-1], order[2:]], axis=1)
            faces[1::2] = faces[1::2, ::-1]  # every second triangle of a strip is wound the other way
        else:
            faces = np.stack([np.full(max(len(order) - 2, 0), order[0]), order[1:-1], order[2:]], axis=1)
        self.face_count += len(faces)
        if self.face_count > MAX_FACES:
            self.glb.fail(f"expected at most {MAX_FACES} triangles, got more")
        return faces

    def _material(self, index: int | None) -> tuple[int, MaterialUse]:
        """Place in the mesh's list and content of a material; None is glTF's default material."""
        if index not in self.uses:
            plain = MaterialUse(Material(), 0, np.eye(3)[:2])
            use = plain if index is None else read_material(self.glb, index, self.textures)
            self.uses[index] = (len(self.uses), use)
        return self.uses[index]


def _local_matrix(node: dict[str, Any]) -> NDArray[np.float64]:
    """[4, 4] node to parent: `matrix` (stored by columns), or translation * rotation * scale."""
    if "matrix" in node:
        stored: NDArray[np.float64] = np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
        return stored
    x, y, z, w = (float(value) for value in node.get("rotation", (0, 0, 0, 1)))
    squared = x * x + y * y + z * z + w * w
    s = 2 / squared if squared > 0 else 0.0
    rotation = np.array([
        [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
        [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
        [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
    ])  # fmt: skip
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.array(node.get("scale", (1, 1, 1)), dtype=np.float64)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix
