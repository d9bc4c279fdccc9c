"""Nodes of a GLB file's scene: where each mesh is drawn, how often, and whether at all.

Extensions on nodes, meshes and primitives may add, move or hide geometry even where a file only lists them as used.
Those that are understood are followed, those that do none of this are left alone, and all others are refused by name.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ouroboros3d.datamodules.meshes.glb_container import GlbContainer
from ouroboros3d.datamodules.untrusted import MAX_PARTS

DRACO = "KHR_draco_mesh_compression"
_INSTANCING, _LEVELS, _VISIBILITY = "EXT_mesh_gpu_instancing", "MSFT_lod", "KHR_node_visibility"
_FOLLOWED = frozenset({_INSTANCING, _LEVELS, _VISIBILITY, DRACO})
_PLACES = {"TRANSLATION": (0.0, 0.0, 0.0), "ROTATION": (0.0, 0.0, 0.0, 1.0), "SCALE": (1.0, 1.0, 1.0)}
# Lights, sounds, physics, what can be clicked on, names of parts, other materials to choose, other data of vertices.
_HARMLESS = frozenset({
    *("KHR_lights_punctual", "EXT_lights_ies", "EXT_lights_image_based", "KHR_audio_emitter", "KHR_audio"),
    *("MSFT_audio_emitter", "KHR_physics_rigid_bodies", "MSFT_physics", "OMI_physics_body", "OMI_physics_shape"),
    *("OMI_collider", "OMI_spawn_point", "OMI_seat", "OMI_link", "KHR_node_hoverability", "KHR_node_selectability"),
    *("KHR_xmp", "KHR_xmp_json_ld", "EXT_structural_metadata", "EXT_mesh_features", "EXT_instance_features"),
    *("EXT_mesh_manifold", "CESIUM_primitive_outline", "FB_ngon_encoding", "KHR_materials_variants"),
    *("AGI_articulations", "AGI_stk_metadata", "VRMC_node_constraint", "MOZ_hubs_components", "FB_geometry_metadata"),
    "KHR_mesh_quantization",
})  # fmt: skip


class Placed(NamedTuple):
    """A mesh and where it is drawn.

    mesh: index into the file's meshes.
    matrices: [I, 4, 4] local to world, one of each copy.
    skin: index into the file's skins, None for none.
    weights: of its morph targets, None for the mesh's own.
    """

    mesh: int
    matrices: NDArray[np.float64]
    skin: int | None = None
    weights: list[float] | None = None


class Scene:
    """The default scene of one file.

    Args:
        glb: the file.

    Raises:
        AssetError: nodes that are no tree, too many, or with an extension that may change what is seen.
    """

    def __init__(self, glb: GlbContainer) -> None:
        self.glb = glb
        self.world: dict[int, NDArray[np.float64]] = {}
        self._parts = 0
        self.placed = list(self._read())

    def count_parts(self, count: int = 1) -> None:
        """Count nodes, copies and primitives.

        Raises:
            AssetError: they are more than `MAX_PARTS`.
        """
        self._parts += count
        if self._parts > MAX_PARTS:
            self.glb.fail(f"expected at most {MAX_PARTS} nodes and primitives, got more")

    def _read(self) -> Iterator[Placed]:
        """Meshes of the nodes that are shown, and every node's place in `world`; without a scene, every mesh once."""
        tree = self.glb.tree
        if not tree.get("scenes"):
            yield from (Placed(index, np.eye(4)[None]) for index in range(len(tree.get("meshes", []))))
            return
        scene = self.glb.item("scenes", tree.get("scene", 0))
        coarser = self._coarser_levels()
        stack = [(index, np.eye(4), True) for index in reversed(scene.get("nodes", []))]
        while stack:
            index, parent, shown = stack.pop()
            self.count_parts()
            node = self.glb.item("nodes", index)
            if index in self.world:
                self.glb.fail(f"expected a tree of nodes, got node {index} twice")
            self.world[index] = parent @ _local_matrix(node)
            extensions = node.get("extensions", {})
            # Joints of what is shown may be hidden, so hidden nodes have their place too.
            shown = shown and index not in coarser and extensions.get(_VISIBILITY, {}).get("visible", True) is not False
            if shown:
                refuse_unknown(self.glb, f"nodes[{index}]", node)
            if shown and "mesh" in node:
                matrices = self.world[index][None]
                if _INSTANCING in extensions:
                    matrices = matrices @ self._copies(f"nodes[{index}]", node)
                yield Placed(node["mesh"], matrices, node.get("skin"), node.get("weights"))
            stack += [(child, self.world[index], shown) for child in reversed(node.get("children", []))]

    def _coarser_levels(self) -> set[int]:
        """Nodes that other nodes name as their coarser levels of detail (MSFT_lod); the finest one is drawn."""
        nodes = [self.glb.item("nodes", index) for index in range(len(self.glb.tree.get("nodes", [])))]
        return {level for node in nodes for level in node.get("extensions", {}).get(_LEVELS, {}).get("ids", [])}

    def _copies(self, name: str, node: dict[str, Any]) -> NDArray[np.float64]:
        """[I, 4, 4] places of a node's copies in its own frame (EXT_mesh_gpu_instancing)."""
        if "skin" in node:
            self.glb.fail(f"{name}: expected {_INSTANCING} without a skin, got both; apply one of them")
        attributes = node["extensions"][_INSTANCING]["attributes"]
        # Names with a line are the program's own, but this one is a colour wherever it is read.
        if other := [key for key in attributes if key not in _PLACES and (key == "_COLOR_0" or key[:1] != "_")]:
            self.glb.fail(f"{name}: expected copies with {', '.join(_PLACES)}, got {other[0][:40]!r}; apply it first")
        columns = {key: self.glb.accessor(attributes[key]).astype(np.float64) for key in _PLACES if key in attributes}
        shapes = {key: values.shape for key, values in columns.items()}
        count = next(iter(shapes.values()), (0,))[0]
        if any(shape != (count, len(_PLACES[key])) for key, shape in shapes.items()):
            self.glb.fail(f"{name}: expected as many TRANSLATION, ROTATION and SCALE, got shapes {shapes}")
        self.count_parts(count)
        self.glb.spend(16 * count)
        translation, rotation, scale = (columns.get(key, np.tile(rest, (count, 1))) for key, rest in _PLACES.items())
        return _matrices(translation, rotation, scale)


def refuse_unknown(glb: GlbContainer, name: str, entry: dict[str, Any]) -> None:
    """Raise AssetError where a node, mesh or primitive has an extension that may change what is seen."""
    if unknown := sorted(set(entry.get("extensions", {})) - _FOLLOWED - _HARMLESS):
        glb.fail(
            f"{name}: expected no extension that may add, move or hide geometry unless it is understood, got "
            f"{unknown[0][:60]!r}; apply it in the program that wrote it, or remove it"
        )


def _local_matrix(node: dict[str, Any]) -> NDArray[np.float64]:
    """[4, 4] node to parent: `matrix` (stored by columns), or translation * rotation * scale."""
    if "matrix" in node:
        stored: NDArray[np.float64] = np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
        return stored
    translation, rotation, scale = (
        np.array(node.get(name.lower(), rest), dtype=np.float64)[None] for name, rest in _PLACES.items()
    )
    single: NDArray[np.float64] = _matrices(translation, rotation, scale)[0]
    return single


def _matrices(
    translation: NDArray[np.float64], rotation: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[I, 4, 4] translation [I, 3] * rotation [I, 4] (x, y, z, w) * scale [I, 3]."""
    x, y, z, w = rotation.T
    squared = x * x + y * y + z * z + w * w
    s = np.divide(2, squared, out=np.zeros_like(squared), where=squared > 0)
    rows = [
        [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
        [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
        [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
    ]
    matrices = np.tile(np.eye(4), (len(s), 1, 1))
    matrices[:, :3, :3] = np.array(rows).transpose(2, 0, 1) * scale[:, None, :]
    matrices[:, :3, 3] = translation
    return matrices
