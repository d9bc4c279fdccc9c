"""What extensions and skins of GLB files add, move and hide, by right places; what is not understood is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from glb_writer import TRIANGLE, Glb, one_triangle
from numpy.typing import NDArray

from ouroboros3d.datamodules.meshes.errors import AssetError
from ouroboros3d.datamodules.meshes.glb import load_glb

POINTS = np.array(TRIANGLE)


def corners(glb: Glb, folder: Path) -> torch.Tensor:
    (folder / "asset.glb").write_bytes(glb.content())
    return load_glb(folder / "asset.glb").corners


def places(glb: Glb, folder: Path, expected: Any) -> None:
    torch.testing.assert_close(corners(glb, folder), torch.tensor(np.array(expected)).float(), rtol=0, atol=1e-5)


def turned(quaternion: Any, points: Any) -> NDArray[np.float64]:
    """Rodrigues' formula, of a unit quaternion (x, y, z, w)."""
    axis, w = np.array(quaternion[:3]), quaternion[3]
    return np.array([p + 2 * np.cross(axis, np.cross(axis, p) + w * p) for p in np.array(points)])


def extended(**extensions: Any) -> dict[str, Any]:
    return {"extensions": extensions}


def instanced(glb: Glb, **attributes: Any) -> dict[str, Any]:
    accessors = {
        name: glb.accessor(*values) if isinstance(values, tuple) else glb.accessor(values)
        for name, values in attributes.items()
    }
    glb.tree["extensionsUsed"] = ["EXT_mesh_gpu_instancing"]
    return extended(EXT_mesh_gpu_instancing={"attributes": accessors})


def test_copies_are_drawn_where_they_are_said_to_be(tmp_path: Path) -> None:
    glb = Glb()
    mesh = glb.mesh(POINTS, [0, 1, 2])
    moves, scales = [[1, 0, 0], [0, 5, 0], [0, 0, 9]], [[1, 1, 1], [2, 1, 1], [-1, 1, 3]]
    turns = np.array([[0, 0, 0, 1], [0, 0.6, 0, 0.8], [0.48, 0, 0.64, 0.6]])
    parent = glb.node(translation=[10, 0, 0], scale=[2, 2, 2])
    glb.node(parent, mesh=mesh, **instanced(glb, TRANSLATION=moves, ROTATION=turns, SCALE=scales, _ID=[[0], [1], [2]]))
    expected = [
        2 * (turned(q, POINTS * s) + np.array(t)) + [10, 0, 0] for t, q, s in zip(moves, turns, scales, strict=True)
    ]
    expected[2] = expected[2][::-1]  # mirrored, so that it still faces outwards
    places(glb, tmp_path, expected)


def test_copies_of_whole_numbers_and_without_some_of_the_three(tmp_path: Path) -> None:
    glb = Glb()
    turns = glb.accessor([[0, 76, 0, 102], [0, 0, 0, 127]], "int8", normalized=True)
    node = extended(EXT_mesh_gpu_instancing={"attributes": {"ROTATION": turns}})
    glb.node(mesh=glb.mesh(POINTS, [0, 1, 2]), **node)
    (tmp_path / "asset.glb").write_bytes(glb.content())
    expected = torch.tensor(np.array([turned([0, 0.6, 0, 0.8], POINTS), POINTS])).float()
    torch.testing.assert_close(load_glb(tmp_path / "asset.glb").corners, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"TRANSLATION": [[0, 0, 0]], "SCALE": [[1, 1, 1], [2, 2, 2]]}, "as many TRANSLATION, ROTATION and SCALE"),
        ({"TRANSLATION": [[0, 0, 0, 1]]}, "as many TRANSLATION"),
        ({"TRANSLATION": [[0, 0, 0]], "SHEAR": [[1, 1, 1]]}, "got 'SHEAR'"),
        ({"TRANSLATION": [[0, 0, 0]], "_COLOR_0": [[1, 0, 0]]}, "got '_COLOR_0'"),
        ({"TRANSLATION": [[float("nan"), 0, 0]]}, "finite vertices"),
    ],
)
def test_copies_that_cannot_be_drawn(attributes: Any, message: str, tmp_path: Path) -> None:
    glb = Glb()
    glb.node(mesh=glb.mesh(POINTS, [0, 1, 2]), **instanced(glb, **attributes))
    with pytest.raises(AssetError, match=message):
        corners(glb, tmp_path)


def test_copies_are_counted(tmp_path: Path) -> None:
    glb = Glb()
    vertices = np.random.default_rng(0).normal(size=(60_000, 3))
    glb.node(mesh=glb.mesh(vertices, [0, 1, 2]), **instanced(glb, TRANSLATION=np.zeros((2000, 3))))
    with pytest.raises(AssetError, match="at most 200000000 numbers in all that is shown"):
        corners(glb, tmp_path)
    glb = Glb()
    zeros = glb.add("accessors", {"componentType": 5126, "count": 100_001, "type": "VEC3"})
    glb.node(mesh=glb.mesh(POINTS, [0, 1, 2]), **extended(EXT_mesh_gpu_instancing={"attributes": {"SCALE": zeros}}))
    with pytest.raises(AssetError, match="at most 100000 nodes and primitives"):
        corners(glb, tmp_path)


def test_only_the_finest_level_of_detail_is_drawn(tmp_path: Path) -> None:
    """Coarser levels are nodes beside the scene, or, as some programs write them, in it."""
    glb = Glb()
    coarse = glb.mesh(POINTS * 50, [0, 1, 2])
    outside = glb.add("nodes", {"mesh": coarse})
    inside = glb.node()
    glb.node(inside, mesh=coarse)
    levels = extended(MSFT_lod={"ids": [outside, inside]})
    glb.node(mesh=glb.mesh(POINTS, [0, 1, 2]), extras={"MSFT_screencoverage": [0.5, 0.2, 0.01]}, **levels)
    glb.tree["extensionsRequired"] = ["MSFT_lod"]
    places(glb, tmp_path, [POINTS])


def test_hidden_nodes_and_what_is_below_them_are_left_out(tmp_path: Path) -> None:
    glb = Glb()
    far = glb.mesh(POINTS * 50, [0, 1, 2])
    hidden = glb.node(mesh=far, **extended(KHR_node_visibility={"visible": False}))
    child = glb.node(hidden, mesh=far, **extended(KHR_node_visibility={"visible": True}))
    glb.node(child, mesh=far, **extended(ACME_unknown={}))
    glb.node(mesh=glb.mesh(POINTS, [0, 1, 2]), **extended(KHR_node_visibility={"visible": True}))
    places(glb, tmp_path, [POINTS])


def test_a_skin_may_hang_on_hidden_joints(tmp_path: Path) -> None:
    glb = Glb()
    joint = glb.node(translation=[0, 0, 3], **extended(KHR_node_visibility={"visible": False}))
    mesh = glb.mesh(
        POINTS,
        [0, 1, 2],
        JOINTS_0=glb.accessor([[0, 0, 0, 0]] * 3, "uint8"),
        WEIGHTS_0=glb.accessor([[1, 0, 0, 0]] * 3),
    )
    glb.tree["skins"] = [{"joints": [joint]}]
    glb.node(mesh=mesh, skin=0)
    places(glb, tmp_path, [np.add(POINTS, [0, 0, 3])])
    glb.tree["skins"] = [{"joints": [glb.add("nodes", {})]}]
    with pytest.raises(AssetError, match="expected joints in the scene, got node 2 outside of it"):
        corners(glb, tmp_path)


@pytest.mark.parametrize("place", ["node", "mesh", "primitive"])
def test_unknown_extensions_are_refused_by_name(place: str, tmp_path: Path) -> None:
    glb = one_triangle()
    entry = glb.tree["nodes"][0] if place == "node" else glb.tree["meshes"][0]
    entry = entry["primitives"][0] if place == "primitive" else entry
    glb.tree["extensionsUsed"] = ["ACME_folding", "KHR_lights_punctual", "KHR_materials_variants"]
    entry["extensions"] = {"KHR_lights_punctual": {"light": 0}, "KHR_materials_variants": {"mappings": []}}
    places(glb, tmp_path, [POINTS])
    entry["extensions"]["ACME_folding"] = {"angle": 90}
    with pytest.raises(
        AssetError, match=r"(nodes|meshes)\[0\]: .* got 'ACME_folding'; apply it in the program"
    ) as caught:
        corners(glb, tmp_path)
    assert "\n" not in str(caught.value)


def skinned(joints: list[Any], weights: list[Any], **skin: Any) -> Glb:
    """The triangle on two joints, at x = 3 and turned and mirrored at z = 5."""
    glb = Glb()
    attributes: dict[str, int] = {}
    for number, (which, share) in enumerate(zip(joints, weights, strict=True)):
        attributes |= {f"JOINTS_{number}": glb.accessor(which, "uint8"), f"WEIGHTS_{number}": glb.accessor(share)}
    first, second = glb.node(translation=[3, 0, 0]), glb.node(translation=[0, 0, 5], scale=[-1, 1, 1])
    glb.tree["skins"] = [{"joints": [first, second]} | skin]
    glb.node(mesh=glb.mesh(POINTS, [0, 1, 2], **attributes), skin=0)
    return glb


def test_without_weights_the_first_joint_takes_all(tmp_path: Path) -> None:
    joints, weights = [[1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]], [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    moved = POINTS * [-1, 1, 1] + [0, 0, 5]
    expected = np.stack([moved[0], POINTS[1] + [3, 0, 0], moved[2]])
    places(skinned([joints], [weights]), tmp_path, [expected[::-1]])  # two of three corners are mirrored


def test_all_sets_of_joints_count(tmp_path: Path) -> None:
    joints = [[[0, 0, 0, 0]] * 3, [[1, 9, 9, 9]] * 3, [[1, 0, 0, 0]] * 3]  # what has no weight may name any
    weights = [[[0.25, 0, 0, 0]] * 3, [[0.25, 0, 0, 0]] * 3, [[0.5, 0, 0, 0]] * 3]
    mixed = 0.25 * np.add(POINTS, [3, 0, 0]) + 0.75 * (POINTS * [-1, 1, 1] + [0, 0, 5])
    places(skinned(joints, weights), tmp_path, [mixed[::-1]])
    # Weights of all sets together are a whole: of halves the same.
    places(skinned(joints, [[[w / 2 for w in row] for row in rows] for rows in weights]), tmp_path, [mixed[::-1]])


def test_mirroring_is_asked_of_each_face(tmp_path: Path) -> None:
    """The first vertex is on the mirroring joint, the second face is not."""
    glb = skinned([[[1, 0, 0, 0]] * 3 + [[0, 0, 0, 0]] * 3], [[[1, 0, 0, 0]] * 6])
    primitive = glb.tree["meshes"][0]["primitives"][0]
    primitive["attributes"]["POSITION"] = glb.accessor([*TRIANGLE, *TRIANGLE])
    primitive["indices"] = glb.accessor(np.arange(6).reshape(-1, 1), "uint16")
    places(glb, tmp_path, [(POINTS * [-1, 1, 1] + [0, 0, 5])[::-1], np.add(POINTS, [3, 0, 0])])


def test_joints_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="JOINTS: expected 0 to 1, got 0 to 2"):
        corners(skinned([[[0, 0, 0, 0], [2, 0, 0, 0], [1, 0, 0, 0]]], [[[1, 0, 0, 0]] * 3]), tmp_path)


def compressed(kind: str, plain: bool) -> Glb:
    """The triangle with data that is compressed, which nobody reads, and plain beside it or not."""
    glb = one_triangle()
    glb.tree["extensionsUsed"] = [kind]
    if kind.startswith("KHR_draco"):
        attributes = {"bufferView": glb.view(b"DRACO"), "attributes": {"POSITION": 0}}
        glb.tree["meshes"][0]["primitives"][0]["extensions"] = {kind: attributes}
        for accessor in [] if plain else glb.tree["accessors"]:
            del accessor["bufferView"]
        return glb
    stored = {"buffer": 0, "byteLength": 5, "byteStride": 12, "mode": "ATTRIBUTES", "count": 3}
    for view in glb.tree["bufferViews"]:
        view["extensions"] = {kind: stored}
        view["buffer"] = 0 if plain else 1
    marked = {"byteLength": 200, "extensions": {kind: {"fallback": True}}}
    glb.tree["buffers"] = [{"byteLength": len(glb.binary)}, marked]
    return glb


@pytest.mark.parametrize("kind", ["KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression"])
@pytest.mark.parametrize("required", [False, True])
def test_plain_data_beside_compressed(kind: str, required: bool, tmp_path: Path) -> None:
    for plain in (True, False):
        glb = compressed(kind, plain)
        if required:
            glb.tree["extensionsRequired"] = [kind]
        if plain:
            places(glb, tmp_path, [POINTS])
            continue
        tool = "gltf-transform/cli copy asset.glb" if "draco" in kind else "gltfpack -noq -i asset.glb"
        with pytest.raises(AssetError, match=f"got {kind} alone; decompress it: .*{tool}") as caught:
            corners(glb, tmp_path)
        assert "\n" not in str(caught.value)


def test_lines_and_points_are_told(tmp_path: Path) -> None:
    glb = one_triangle()
    glb.node(mesh=glb.mesh([[5.0, 5, 5], [6, 6, 6]], [0, 1], mode=1))
    (tmp_path / "asset.glb").write_bytes(glb.content())
    assert load_glb(tmp_path / "asset.glb").notes == ("lines and points are left out",)
