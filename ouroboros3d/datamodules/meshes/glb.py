"""GLB files (Objaverse's format) to `TexturedMesh`; whatever is wrong with a file becomes one `AssetError`.

Read here and not through trimesh, which is lenient where ground truth must not be: it fills sparse and unknown data
with zeros, drops triangle fans, the sampler's wrap modes and undecodable textures in silence, and keeps colour factors
in 8 bits. The tests compare the two on files that both can read.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ouroboros3d.datamodules.meshes.assembly import textured_mesh
from ouroboros3d.datamodules.meshes.errors import AssetError
from ouroboros3d.datamodules.meshes.glb_container import GlbContainer
from ouroboros3d.datamodules.meshes.glb_materials import MaterialUse, read_material
from ouroboros3d.datamodules.meshes.glb_scene import DRACO, Placed, Scene, refuse_unknown
from ouroboros3d.datamodules.meshes.texture_files import Textures
from ouroboros3d.datamodules.untrusted import MAX_FACES, MAX_PARTS, reraise_as
from ouroboros3d.renderers.meshes import Material, TexturedMesh

_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_BRIGHTEST = 2.0  # a colour above 1 is light that is cut off, but as many as that are of another range
_SETS = 16  # of joints and weights; programs write up to two
# What may be required and is still read right: it does not change the base colour, or is handled.
_KNOWN_EXTENSIONS = frozenset({
    "KHR_texture_transform", "KHR_mesh_quantization", "KHR_materials_unlit", "KHR_materials_pbrSpecularGlossiness",
    "EXT_texture_webp", "KHR_materials_specular", "KHR_materials_ior", "KHR_materials_clearcoat",
    "KHR_materials_transmission", "KHR_materials_emissive_strength", "KHR_materials_volume", "KHR_materials_sheen",
    "KHR_lights_punctual", "KHR_materials_anisotropy", "KHR_materials_diffuse_transmission", "KHR_materials_dispersion",
    "KHR_materials_iridescence", "KHR_materials_variants", "KHR_node_visibility", "EXT_mesh_gpu_instancing", "MSFT_lod",
    "KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression",
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
    with reraise_as(AssetError, f"{path}: expected valid glTF 2.0"), np.errstate(all="ignore"):
        return _SceneReader(GlbContainer(path)).read()


class _SceneReader:
    """Walks the default scene of one file and gathers its triangles."""

    def __init__(self, glb: GlbContainer) -> None:
        unknown = set(glb.tree.get("extensionsRequired", [])) - _KNOWN_EXTENSIONS
        if unknown:
            glb.fail(f"expected plain glTF, got the required extensions {sorted(unknown)}; convert it first")
        self.glb = glb
        self.scene = Scene(glb)
        self.textures = Textures(glb.path)
        self.uses: dict[int | None, tuple[int, MaterialUse]] = {}
        self.vertices: list[NDArray[np.float64]] = []
        self.rounded: list[NDArray[np.float64]] = []
        self.faces: list[NDArray[np.int64]] = []
        self.uv: list[NDArray[np.float32]] = []
        self.colours: list[NDArray[np.float32]] = []
        self.material_index: list[NDArray[np.int64]] = []
        self.vertex_count = self.face_count = 0
        self.notes: set[str] = set()

    def read(self) -> TexturedMesh:
        """Read the whole scene into one mesh."""
        for placed in self.scene.placed:
            mesh = self.glb.item("meshes", placed.mesh)
            refuse_unknown(self.glb, f"meshes[{placed.mesh}]", mesh)
            weights = placed.weights if placed.weights is not None else mesh.get("weights", [])
            for primitive in mesh["primitives"]:
                self.scene.count_parts()
                refuse_unknown(self.glb, f"meshes[{placed.mesh}]", primitive)
                if primitive.get("mode", _TRIANGLES) in (_TRIANGLES, _STRIP, _FAN):
                    self._add(primitive, placed, weights)
                else:
                    self.notes.add("lines and points are left out")
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
            tuple(sorted(self.notes)),
            np.concatenate(self.rounded),
        )

    def _add(self, primitive: dict[str, Any], placed: Placed, weights: list[float]) -> None:
        """Append one primitive in world coordinates, as often as it is drawn."""
        attributes = primitive["attributes"]
        if DRACO in primitive.get("extensions", {}):
            self._refuse_without_plain_data(primitive)
        stored = self._attribute(attributes, "POSITION", (3,))
        position, single = stored.astype(np.float64), stored.dtype.kind == "f"
        count = len(position)
        for weight, target in zip(weights, primitive.get("targets", []), strict=False):  # missing weights are 0
            if weight and "POSITION" in target:
                position = position + float(weight) * self._attribute(target, "POSITION", (3,), count)
        triangles = self._triangles(primitive, count)
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
            if use.emission:
                colours[:, :3] = 1
        self.glb.spend(position.size * (len(placed.matrices) - 1))
        for matrix in self._placements(attributes, placed, count):
            self.face_count += len(triangles)
            if self.face_count > MAX_FACES:
                self.glb.fail(f"expected at most {MAX_FACES} triangles, got more")
            # A mirroring place turns the winding (glTF 2.0, 3.7.4): that of a skinned face is where its corners are.
            mirrored = np.broadcast_to(np.linalg.det(matrix[:, :3, :3]) < 0, count)[triangles].sum(axis=1) > 1
            faces = np.where(mirrored[:, None], triangles[:, ::-1], triangles)
            self.vertices.append((matrix[:, :3, :3] @ position[:, :, None])[:, :, 0] + matrix[:, :3, 3])
            sizes = np.abs(matrix[:, :3, :3]) @ np.abs(position)[:, :, None]
            self.rounded.append(sizes.max(axis=(1, 2)) * single)
            self.faces.append(faces + self.vertex_count)
            self.uv.append(uv.astype(np.float32)[faces])
            self.colours.append(colours)
            self.material_index.append(np.full(len(faces), slot, np.int64))
            self.vertex_count += count

    def _refuse_without_plain_data(self, primitive: dict[str, Any]) -> None:
        """Of a compressed primitive, the accessors hold the same data where they have a place in a buffer."""
        named = [*primitive["attributes"].values(), *([primitive["indices"]] if "indices" in primitive else [])]
        if not all({"bufferView", "sparse"} & self.glb.item("accessors", index).keys() for index in named):
            self.glb.fail(
                f"expected uncompressed geometry, got {DRACO} alone; decompress it: npx @gltf-transform/cli copy "
                f"{self.glb.path.name} plain.glb"
            )

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

    def _placements(self, attributes: dict[str, Any], placed: Placed, count: int) -> Iterable[NDArray[np.float64]]:
        """Local to world of every copy, [1, 4, 4], or [count, 4, 4] where each vertex follows its joints."""
        if placed.skin is None or "JOINTS_0" not in attributes:
            return placed.matrices[:, None]
        return [self._skinned(attributes, self.glb.item("skins", placed.skin), count)]

    def _skinned(self, attributes: dict[str, Any], skin: dict[str, Any], count: int) -> NDArray[np.float64]:
        """[count, 4, 4] from the bind pose to the rest pose of the joints, by the weights of all sets."""
        if len(skin["joints"]) > MAX_PARTS:
            self.glb.fail(f"expected at most {MAX_PARTS} joints of a skin, got {len(skin['joints'])}")
        self.glb.spend(16 * len(skin["joints"]))
        if missing := [joint for joint in skin["joints"] if joint not in self.scene.world]:
            self.glb.fail(f"expected joints in the scene, got node {missing[0]} outside of it")
        joints = np.stack([self.scene.world[joint] for joint in skin["joints"]])
        if "inverseBindMatrices" in skin:
            stored = self.glb.accessor(skin["inverseBindMatrices"]).astype(np.float64)
            joints = joints @ stored.reshape(-1, 4, 4).transpose(0, 2, 1)[: len(joints)]
        which, share = [], []
        for number in range(_SETS):
            if f"JOINTS_{number}" not in attributes:
                break
            which.append(self._attribute(attributes, f"JOINTS_{number}", (4,), count).astype(np.int64))
            share.append(self._attribute(attributes, f"WEIGHTS_{number}", (4,), count).astype(np.float64))
        else:
            self.glb.fail(f"expected at most {_SETS} sets of joints, got more")
        joint, weight = np.concatenate(which, axis=1), np.concatenate(share, axis=1)
        total = weight.sum(axis=1, keepdims=True)
        # Without any, the first joint takes all, as in viewers.
        weight = np.where(total > 0, weight / np.where(total > 0, total, 1), np.eye(1, weight.shape[1]))
        joint = np.where(weight != 0, joint, 0)  # what has no weight may name any
        if joint.size and not (0 <= joint.min() and joint.max() < len(joints)):
            self.glb.fail(f"JOINTS: expected 0 to {len(joints) - 1}, got {joint.min()} to {joint.max()}")
        blended: NDArray[np.float64] = np.einsum("vj,vjab->vab", weight, joints[joint])
        return blended

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
        return faces

    def _material(self, index: int | None) -> tuple[int, MaterialUse]:
        """Place in the mesh's list and content of a material; None is glTF's default material."""
        if index not in self.uses:
            plain = MaterialUse(Material(), 0, np.eye(3)[:2])
            use = plain if index is None else read_material(self.glb, index, self.textures)
            self.uses[index] = (len(self.uses), use)
            self.notes |= {use.note} - {""}
        return self.uses[index]
