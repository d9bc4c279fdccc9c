"""GLB files written byte by byte, read back to known numbers; every broken one ends in one clear line."""

import base64
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from glb_writer import TRIANGLE, Glb, encoded, one_triangle, packed, textured_square
from PIL import Image

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.meshes import glb as glb_module
from ouroboros3d.datamodules.meshes import glb_container, texture_files
from ouroboros3d.datamodules.meshes.glb import AssetError, load_glb
from ouroboros3d.datamodules.untrusted import open_image
from ouroboros3d.renderers.meshes import MeshRenderer, TexturedMesh


def load(content: Glb | bytes, folder: Path) -> TexturedMesh:
    path = folder / "asset.glb"
    path.write_bytes(content.content() if isinstance(content, Glb) else content)
    return load_glb(path)


def fails(content: Glb | bytes, folder: Path, match: str) -> None:
    """One line that starts with the path, says what was expected and got, and matches."""
    with pytest.raises(AssetError, match=match) as caught:
        load(content, folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{folder / 'asset.glb'}: ")
    assert "expected" in message
    assert "got" in message


def corners(mesh: TexturedMesh) -> torch.Tensor:
    return mesh.vertices[mesh.faces]


def test_the_smallest_object(tmp_path):
    mesh = load(one_triangle(), tmp_path)
    torch.testing.assert_close(corners(mesh), torch.tensor([TRIANGLE]))
    assert mesh.vertices.dtype == torch.float32
    assert mesh.faces.dtype == mesh.material_index.dtype == torch.int64
    assert mesh.uv.shape == (1, 3, 2)
    assert mesh.vertex_colours_linear is None
    assert mesh.materials[0].alpha_mode == "OPAQUE"


def test_node_transforms_are_baked_down_the_tree(tmp_path):
    glb = Glb()
    mesh = glb.mesh(TRIANGLE, [0, 1, 2])
    half = float(np.sqrt(0.5))
    parent = glb.node(translation=[10, 0, 0], rotation=[0, half, 0, half], scale=[1, 2, 3])  # 90 degrees about +Y
    glb.node(parent, mesh=mesh, translation=[0, 1, 0])
    matrix = np.array([[0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]], dtype=float)
    glb.node(mesh=mesh, matrix=matrix.T.flatten().tolist())  # stored by columns
    found = load(glb, tmp_path)
    points = np.array(TRIANGLE)
    first = np.stack([10 + 3 * points[:, 2], 2 * (points[:, 1] + 1), -points[:, 0]], axis=1)
    second = points @ matrix[:3, :3].T + matrix[:3, 3]
    expected = torch.tensor(np.stack([first, second]), dtype=torch.float32)
    torch.testing.assert_close(corners(found), expected, rtol=0, atol=1e-5)


def test_mirroring_nodes_keep_faces_outwards(tmp_path):
    glb = Glb()
    glb.node(mesh=glb.mesh(TRIANGLE, [0, 1, 2]), scale=[-1, 1, 1])
    a, b, c = corners(load(glb, tmp_path))[0]
    a0, b0, c0 = torch.tensor(TRIANGLE)
    normal, expected = torch.linalg.cross(b - a, c - a), torch.linalg.cross(b0 - a0, c0 - a0) * torch.tensor([-1, 1, 1])
    torch.testing.assert_close(normal, expected)


def test_several_roots_share_one_normalisation(tmp_path):
    glb = Glb()
    glb.node(mesh=glb.mesh(TRIANGLE, [0, 1, 2]))
    glb.node(mesh=glb.mesh(np.add(TRIANGLE, [9, 0, 0]), [0, 1, 2]))
    mesh, scale, offset = load(glb, tmp_path).normalised()
    assert scale == pytest.approx(1 / 10)  # the box is 10 x 2 x 0.5
    torch.testing.assert_close(offset, torch.tensor([-0.5, -0.1, -0.025], dtype=torch.float64))
    assert corners(mesh)[:, :, 0].amin(dim=1).tolist() == pytest.approx([-0.5, 0.4])


def test_only_the_default_scene_is_read(tmp_path):
    glb = one_triangle()
    other = glb.add("nodes", {"mesh": glb.mesh(np.array(TRIANGLE) * 5, [0, 1, 2])})
    glb.tree["scenes"].append({"nodes": [other]})
    assert len(load(glb, tmp_path).faces) == 1
    glb.tree["scene"] = 1
    assert load(glb, tmp_path).vertices.max() == 10
    del glb.tree["scenes"], glb.tree["scene"]
    assert len(load(glb, tmp_path).faces) == 2  # no scene at all: every mesh


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (4, [[0, 1, 2], [3, 4, 5]]),
        (5, [[0, 1, 2], [3, 2, 1], [2, 3, 4], [5, 4, 3]]),
        (6, [[0, i, i + 1] for i in range(1, 5)]),
    ],
)
@pytest.mark.parametrize("indexed", [True, False])
def test_triangle_lists_strips_and_fans(mode, expected, indexed, tmp_path):
    points = np.arange(18, dtype=np.float32).reshape(6, 3) ** 1.5
    glb = Glb()
    glb.node(mesh=glb.mesh(points, range(6) if indexed else None, mode=mode))
    torch.testing.assert_close(corners(load(glb, tmp_path)), torch.tensor(points[np.array(expected)]))


def test_lines_and_points_are_left_out(tmp_path):
    glb = one_triangle()
    glb.node(mesh=glb.mesh([[5.0, 5, 5], [6, 6, 6]], [0, 1], mode=1))
    glb.node(mesh=glb.mesh([[5.0, 5, 5], [6, 6, 6]], None, mode=0))
    assert load(glb, tmp_path).vertices.max() == 2


def test_unused_vertices_are_dropped(tmp_path):
    glb = Glb()
    glb.node(mesh=glb.mesh([*TRIANGLE, [1e9, 0, 0]], [0, 1, 2]))
    assert load(glb, tmp_path).vertices.shape == (3, 3)


def test_interleaved_sparse_and_quantised_accessors(tmp_path):
    interleaved = Glb()
    data = np.zeros((3, 5), np.float32)
    data[:, :3], data[:, 3:] = TRIANGLE, [[0, 0], [1, 0], [0, 1]]
    view = interleaved.view(data.tobytes())
    interleaved.tree["bufferViews"][view]["byteStride"] = 20
    entry = {"bufferView": view, "componentType": 5126, "count": 3}
    position = interleaved.add("accessors", entry | {"type": "VEC3"})
    uv = interleaved.add("accessors", entry | {"type": "VEC2", "byteOffset": 12})
    mesh = interleaved.add("meshes", {"primitives": [{"attributes": {"POSITION": position, "TEXCOORD_0": uv}}]})
    interleaved.node(mesh=mesh)
    found = load(interleaved, tmp_path)
    torch.testing.assert_close(corners(found), torch.tensor([TRIANGLE]))
    torch.testing.assert_close(found.uv[0], torch.tensor([[0.0, 0], [1, 0], [0, 1]]))

    sparse = Glb()
    changes = {
        "count": 2,
        "indices": {"bufferView": sparse.view(np.array([1, 2], np.uint8).tobytes()), "componentType": 5121},
        "values": {"bufferView": sparse.view(np.array(TRIANGLE[1:], np.float32).tobytes())},
    }
    entry = {"componentType": 5126, "count": 3, "type": "VEC3", "sparse": changes}  # no view: zeros elsewhere
    position = sparse.add("accessors", entry)
    sparse.node(mesh=sparse.add("meshes", {"primitives": [{"attributes": {"POSITION": position}}]}))
    torch.testing.assert_close(corners(load(sparse, tmp_path)), torch.tensor([TRIANGLE]))

    small = Glb()
    stored = small.accessor(np.array(TRIANGLE) / 2 * 127, "int8", normalized=True)
    small.node(mesh=small.add("meshes", {"primitives": [{"attributes": {"POSITION": stored}}]}), scale=[2, 2, 2])
    small.tree["extensionsRequired"] = ["KHR_mesh_quantization"]
    torch.testing.assert_close(corners(load(small, tmp_path)), torch.tensor([TRIANGLE]), rtol=0, atol=0.02)


def test_skins_take_their_rest_pose(tmp_path):
    """The mesh's own node does not count; each vertex follows its joints from their bind to their rest place."""
    glb = Glb()
    joints = glb.accessor([[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]], "uint8")
    weights = glb.accessor([[1, 0, 0, 0], [1, 0, 0, 0], [0.5, 0.5, 0, 0]])
    mesh = glb.mesh(TRIANGLE, [0, 1, 2], JOINTS_0=joints, WEIGHTS_0=weights)
    first = glb.node(translation=[0, 0, 1])
    second = glb.node(first, scale=[2, 2, 2])
    bind = np.stack([np.eye(4), np.eye(4)])
    bind[1, 0, 3] = 1
    inverse = glb.accessor(bind.transpose(0, 2, 1).reshape(2, 16))
    glb.tree["skins"] = [{"joints": [first, second], "inverseBindMatrices": inverse}]
    glb.node(mesh=mesh, skin=0, translation=[100, 0, 0])
    a, b, c = np.array(TRIANGLE)
    x, z = np.eye(3)[[0, 2]]
    expected = [a + z, 2 * (b + x) + z, 0.5 * (c + 2 * (c + x)) + z]
    torch.testing.assert_close(corners(load(glb, tmp_path))[0], torch.tensor(np.array(expected), dtype=torch.float32))


def test_morph_targets_take_their_rest_weights(tmp_path):
    glb = Glb()
    mesh = glb.mesh(TRIANGLE, [0, 1, 2], targets=[{"POSITION": glb.accessor([[1, 0, 0]] * 3)}])
    glb.tree["meshes"][mesh]["weights"] = [0.5]
    glb.node(mesh=mesh)
    glb.node(mesh=mesh, weights=[0.0])
    found = corners(load(glb, tmp_path))
    torch.testing.assert_close(found[0] - found[1], torch.tensor([[0.5, 0, 0]]).expand(3, 3))


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1), ("uint8", 255), ("uint16", 65535)])
@pytest.mark.parametrize("width", [3, 4])
def test_vertex_colours_are_linear_factors(dtype, limit, width, tmp_path):
    values = np.array([[1, 0, 0.25, 0.5], [0, 1, 0.5, 1], [1, 1, 1, 1]])[:, :width]
    glb = Glb()
    colours = glb.accessor(values * limit, dtype, **({} if dtype == "float32" else {"normalized": True}))
    glb.node(mesh=glb.mesh(TRIANGLE, [0, 1, 2], COLOR_0=colours))
    found = load(glb, tmp_path).vertex_colours_linear
    assert found is not None
    expected = np.concatenate([values, np.ones((3, 4 - width))], axis=1)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1 / limit)


def test_vertex_colours_of_another_range_are_not_clamped_to_white(tmp_path):
    glb = Glb()
    glb.node(mesh=glb.mesh(TRIANGLE, [0, 1, 2], COLOR_0=glb.accessor([[200.0, 90, 10]] * 3)))
    fails(glb, tmp_path, r"COLOR_0: expected colours in \[0, 1\], got up to 200")


def test_materials_are_read(tmp_path):
    glb = Glb()
    first = glb.material(factor=(0.5, 0.25, 0.125, 0.75), alphaMode="BLEND", doubleSided=True)
    second = glb.material(
        [[[9, 8, 7, 96]]], sampler={"wrapS": 33071, "wrapT": 33648}, alphaMode="MASK", alphaCutoff=0.3
    )
    for material in (second, None, first, second):
        glb.node(mesh=glb.mesh(TRIANGLE, [0, 1, 2], **({} if material is None else {"material": material})))
    mesh = load(glb, tmp_path)
    one, plain, two, again = (mesh.materials[i] for i in mesh.material_index.tolist())
    assert one is again
    assert one.texture is not None
    assert one.texture.tolist() == [[[9, 8, 7, 96]]]
    assert (one.wrap, one.alpha_mode, one.alpha_cutoff) == (("clamp", "mirror"), "MASK", 0.3)
    assert two.base_colour_linear == (0.5, 0.25, 0.125, 0.75)
    assert (two.alpha_mode, two.texture) == ("BLEND", None)
    assert plain.base_colour_linear == (1.0, 1.0, 1.0, 1.0)


def test_specular_glossiness_gives_its_diffuse_colour(tmp_path):
    glb = Glb()
    texture = glb.add("textures", {"source": glb.image([[[1, 2, 3, 255]]])})
    glossy = {"diffuseFactor": [0.5, 1, 1, 1], "diffuseTexture": {"index": texture}}
    material = glb.add("materials", {"extensions": {"KHR_materials_pbrSpecularGlossiness": glossy}})
    glb.node(mesh=glb.mesh(TRIANGLE, [0, 1, 2], material=material))
    found = load(glb, tmp_path).materials[0]
    assert found.base_colour_linear == (0.5, 1, 1, 1)
    assert found.texture is not None
    assert found.texture.tolist() == [[[1, 2, 3, 255]]]


def test_texture_transform_and_second_coordinates(tmp_path):
    glb = textured_square()
    uv = glb.accessor([[0, 0], [0, 1], [1, 1], [1, 0]])
    attributes = glb.tree["meshes"][0]["primitives"][0]["attributes"]
    attributes["TEXCOORD_1"], attributes["TEXCOORD_0"] = uv, glb.accessor(np.full((4, 2), 7))
    slot = glb.tree["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]
    transform = {"offset": [0.5, 0.25], "scale": [2, 3], "rotation": np.pi / 2}
    slot |= {"texCoord": 1, "extensions": {"KHR_texture_transform": transform}}
    found = load(glb, tmp_path).uv[0]
    # T * R * S: scaled, turned (counter-clockwise as seen, since v points down), moved.
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.25], [3.5, 0.25], [3.5, -1.75]]), rtol=0, atol=1e-6)


def test_rendered_texture_is_upright(tmp_path):
    mesh = load(textured_square(), tmp_path).normalised()[0]
    pixels = MeshRenderer()(mesh, Cameras.orbit([0.0], 0.0, 2.0, 40.0), 64, 64).colour[0, 0].round()
    assert pixels[:, 22, 22].tolist() == [1, 0, 0]
    assert pixels[:, 22, 41].tolist() == [0, 1, 0]
    assert pixels[:, 41, 22].tolist() == [0, 0, 1]
    assert pixels[:, 41, 41].tolist() == [1, 1, 1]


def image_modes() -> dict[str, tuple[bytes, list[int]]]:
    """Encodings of one colour, and the bytes it must decode to."""
    grey16 = Image.fromarray(np.full((4, 4), 0x80FF, np.uint16))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    return {
        "grey": (encoded(np.full((4, 4), 77)), [77, 77, 77, 255]),
        "grey alpha": (encoded(Image.new("LA", (4, 4), (77, 99))), [77, 77, 77, 99]),
        "grey 16 bit": (encoded(grey16), [128, 128, 128, 255]),
        "palette": (encoded(palette), [200, 100, 50, 255]),
        "bits": (encoded(Image.new("1", (4, 4), 1)), [255, 255, 255, 255]),
        "jpeg": (encoded(np.full((4, 4, 3), [200, 100, 50]), "JPEG"), [200, 100, 50, 255]),
        "cmyk": (encoded(Image.new("CMYK", (4, 4), (0, 0, 0, 55)), "JPEG"), [200, 200, 200, 255]),
        "webp": (encoded(np.full((4, 4, 4), [200, 100, 50, 99]), "WEBP"), [200, 100, 50, 99]),
    }


@pytest.mark.parametrize("mode", sorted(image_modes()))
def test_every_kind_of_image_becomes_rgba(mode, tmp_path):
    data, expected = image_modes()[mode]
    glb = textured_square()
    glb.tree["images"][0] = {"bufferView": glb.view(data), "mimeType": "image/png"}
    texture = load(glb, tmp_path).materials[0].texture
    assert texture is not None
    assert texture.dtype == torch.uint8
    assert texture.shape == (4, 4, 4)
    assert (texture[1, 1].int() - torch.tensor(expected)).abs().max() <= 2  # JPEG rounds


def test_images_beside_the_file_and_in_data_uris(tmp_path):
    data = encoded([[[9, 8, 7, 255]]])
    (tmp_path / "my folder").mkdir()
    (tmp_path / "my folder/a b.png").write_bytes(data)
    for uri in ("my%20folder/a%20b.png", "data:image/png;base64," + base64.b64encode(data).decode()):
        glb = textured_square()
        glb.tree["images"][0] = {"uri": uri}
        texture = load(glb, tmp_path).materials[0].texture
        assert texture is not None
        assert texture.tolist() == [[[9, 8, 7, 255]]]


def test_trimesh_reads_the_same_geometry(tmp_path):
    """An independent reader agrees where it reads everything: vertices, scene graph and texture coordinates."""
    glb = textured_square()
    parent = glb.node(translation=[1, 2, 3], rotation=[0.1, 0.2, 0.3, 0.9273618495495703])
    glb.node(parent, mesh=glb.mesh(np.array(TRIANGLE) * 2, [2, 1, 0]), scale=[1, 2, 0.5])
    ours = load(glb, tmp_path)
    theirs = trimesh.load_scene(tmp_path / "asset.glb", process=False).dump()
    expected = torch.from_numpy(np.concatenate([mesh.triangles for mesh in theirs])).float()
    found = corners(ours)
    order, expected_order = (x.reshape(len(x), -1).sum(dim=1).argsort() for x in (found, expected))
    torch.testing.assert_close(found[order], expected[expected_order], rtol=0, atol=1e-5)
    square = next(mesh for mesh in theirs if len(mesh.faces) == 2)
    uv = torch.from_numpy(square.visual.uv[square.faces]).float()
    torch.testing.assert_close(ours.uv[:2], torch.stack([uv[..., 0], 1 - uv[..., 1]], dim=-1))


def broken_bytes() -> dict[str, tuple[bytes, str]]:
    good = one_triangle().content()
    text, binary = json.dumps({"asset": {"version": "2.0"}}).encode(), b"\0" * 4
    return {
        "empty": (b"", "first bytes 'glTF'.*got b'' in 0 bytes"),
        "not a GLB": (b"PK\3\4" + bytes(100), "first bytes 'glTF'"),
        "text": (b'{"asset": {"version": "2.0"}, "meshes": []}', "first bytes 'glTF'"),
        "truncated by one": (good[:-1], f"expected {len(good)} bytes as its header says, got {len(good) - 1}"),
        "truncated in the middle": (good[: len(good) // 2], "truncated"),
        "truncated header": (good[:15], "first bytes 'glTF'"),
        "version 1": (packed(text, binary, version=1), "expected glTF version 2, got 1"),
        "chunk too long": (good[:12] + struct.pack("<I", 10**6) + good[16:], "expected a chunk of 1000000 bytes"),
        "no JSON chunk": (good[:16] + b"XXXX" + good[20:], "expected a JSON chunk first"),
        "broken JSON": (packed(b"{'a': 1}", binary), "expected JSON in its first chunk, got JSONDecodeError"),
        "JSON bomb": (packed(b"[" * 200_000, binary), "expected JSON in its first chunk, got .* nested too deeply"),
        "JSON list": (packed(b"[]", binary), "expected a JSON object"),
        "not UTF-8": (packed(b'{"a": "\xff"}', binary), "UnicodeDecodeError"),
        "nothing inside": (packed(text, binary), "got no faces"),
    }


@pytest.mark.parametrize("case", sorted(broken_bytes()))
def test_broken_containers(case, tmp_path):
    fails(*broken_bytes()[case][:1], tmp_path, broken_bytes()[case][1])


def test_missing_files_and_folders_are_named(tmp_path):
    for path in (tmp_path / "none.glb", tmp_path):
        with pytest.raises(AssetError, match="expected a readable GLB file, got"):
            load_glb(path)


NAN, INFINITY = float("nan"), float("inf")


def no_faces(glb: Glb) -> None:
    glb.tree["nodes"][0].pop("mesh")


def accessor_of(glb: Glb, kind: str) -> dict[str, Any]:
    primitive = glb.tree["meshes"][0]["primitives"][0]
    index = primitive["indices"] if kind == "indices" else primitive["attributes"][kind]
    entry: dict[str, Any] = glb.tree["accessors"][index]
    return entry


def replace_position(glb: Glb, values: Any) -> None:
    glb.tree["meshes"][0]["primitives"][0]["attributes"]["POSITION"] = glb.accessor(values)


def broken_trees() -> dict[str, tuple[Any, str]]:
    """What each case does to the textured square, and the message it must lead to."""
    square = [[-1, 1, 0], [-1, -1, 0], [1, -1, 0], [1, 1, 0]]
    return {
        "no faces": (no_faces, "expected triangles in its scene, got no faces"),
        "NaN vertex": (lambda g: replace_position(g, [[NAN, 0, 0], *square[1:]]), "POSITION: expected finite"),
        "infinite vertex": (lambda g: replace_position(g, [[INFINITY, 0, 0], *square[1:]]), "expected finite numbers"),
        "huge vertex": (lambda g: replace_position(g, [[1e35, 0, 0], *square[1:]]), "expected finite vertices"),
        "NaN transform": (lambda g: g.tree["nodes"][0].update(translation=[NAN, 0, 0]), "expected finite vertices"),
        "zero size": (lambda g: replace_position(g, [[5, 5, 5]] * 4), "expected an object with a size, got an extent"),
        "zero scale": (lambda g: g.tree["nodes"][0].update(scale=[0, 0, 0]), "expected an object with a size"),
        "index out of range": (lambda g: replace_position(g, square[:3]), "expected 0 to 2, got 0 to 3: out of range"),
        "indices not by three": (
            lambda g: accessor_of(g, "indices").update(count=5),
            "expected a multiple of 3, got 5",
        ),
        "indices as floats": (
            lambda g: g.tree["meshes"][0]["primitives"][0].update(indices=1),
            "expected whole numbers",
        ),
        "negative count": (lambda g: accessor_of(g, "POSITION").update(count=-4), "expected a whole number from 0"),
        "count beyond buffer": (lambda g: accessor_of(g, "POSITION").update(count=4000), "expected an end within"),
        "absurd count": (lambda g: accessor_of(g, "POSITION").update(count=10**9), "expected at most 20000000 numbers"),
        "absurd zeros": (
            lambda g: (accessor_of(g, "POSITION").update(count=10**8), accessor_of(g, "POSITION").pop("bufferView")),
            "expected at most 20000000 numbers",
        ),
        "offset beyond view": (lambda g: accessor_of(g, "POSITION").update(byteOffset=44), "expected an end within"),
        "negative offset": (
            lambda g: accessor_of(g, "POSITION").update(byteOffset=-4),
            "expected a whole number from 0",
        ),
        "view beyond buffer": (
            lambda g: g.tree["bufferViews"][0].update(byteLength=10**6),
            "expected an end within 176 bytes, got 1000000",
        ),
        "buffer beyond chunk": (
            lambda g: g.tree.update(buffers=[{"byteLength": 10**6}]),
            "expected 1000000 bytes, got",
        ),
        "zero stride": (lambda g: g.tree["bufferViews"][0].update(byteStride=0), "expected a byteStride"),
        "no such accessor": (
            lambda g: g.tree["meshes"][0]["primitives"][0]["attributes"].update(POSITION=99),
            "expected an index below .* into its accessors, got 99",
        ),
        "no such mesh": (lambda g: g.tree["nodes"][0].update(mesh=-1), "into its meshes, got -1"),
        "no such scene": (lambda g: g.tree.update(scene=3), "into its scenes, got 3"),
        "no such material": (lambda g: g.tree["meshes"][0]["primitives"][0].update(material=7), "into its materials"),
        "no position": (lambda g: g.tree["meshes"][0]["primitives"][0]["attributes"].pop("POSITION"), "KeyError"),
        "unknown component": (lambda g: accessor_of(g, "POSITION").update(componentType=5124), "5124"),
        "coordinates of another length": (lambda g: accessor_of(g, "TEXCOORD_0").update(count=3), "expected 4 rows"),
        "loop of nodes": (lambda g: g.tree["nodes"][0].update(children=[0]), "got node 0 twice"),
        "meshes as a number": (lambda g: g.tree.update(meshes=5), "expected valid glTF 2.0, got TypeError"),
        "nodes of strings": (lambda g: g.tree.update(nodes=["a"]), "expected an object in nodes"),
        "factor of three": (
            lambda g: g.tree["materials"][0]["pbrMetallicRoughness"].update(baseColorFactor=[1, 1, 1]),
            "expected valid glTF 2.0, got ValueError",
        ),
        "NaN factor": (
            lambda g: g.tree["materials"][0]["pbrMetallicRoughness"].update(baseColorFactor=[NAN, 1, 1, 1]),
            "expected finite colour factors",
        ),
        "unknown alpha mode": (lambda g: g.tree["materials"][0].update(alphaMode="GLASS"), "got 'GLASS'"),
        "required extension": (lambda g: g.tree.update(extensionsRequired=["KHR_odd"]), "'KHR_odd'"),
        "missing texture": (lambda g: g.tree["textures"][0].update(source=4), "into its images, got 4"),
        "texture without source": (
            lambda g: g.tree["textures"][0].pop("source"),
            "expected a PNG, JPEG or WebP source",
        ),
        "missing image file": (lambda g: g.tree.update(images=[{"uri": "gone.png"}]), "the file 'gone.png' beside it"),
        "image is text": (
            lambda g: g.tree.update(images=[{"bufferView": g.view(b"<html>404</html>")}]),
            r"expected an image \(PNG, JPEG or WEBP\), got UnidentifiedImageError",
        ),
        "image truncated": (
            lambda g: g.tree.update(images=[{"bufferView": g.view(encoded(np.zeros((64, 64, 3)), "JPEG")[:-300])}]),
            r"expected an image \(PNG, JPEG or WEBP\), got OSError",
        ),
        "image of another kind": (
            lambda g: g.tree.update(images=[{"bufferView": g.view(encoded(np.zeros((4, 4, 3)), "TIFF"))}]),
            r"expected an image \(PNG, JPEG or WEBP\)",
        ),
        "image bomb": (
            lambda g: g.tree.update(images=[{"bufferView": g.view(encoded(Image.new("1", (9000, 9000))))}]),
            "9000 x 9000 pixels, expected at most 8192 a side",
        ),
        "path out of the folder": (lambda g: g.tree.update(images=[{"uri": "../secret.png"}]), "inside its own folder"),
        "quoted path out": (lambda g: g.tree.update(images=[{"uri": "%2e%2e/secret.png"}]), "inside its own folder"),
        "absolute path": (lambda g: g.tree.update(images=[{"uri": "/etc/hostname"}]), "inside its own folder"),
        "web address": (lambda g: g.tree.update(images=[{"uri": "http://localhost/a.png"}]), "beside it, got none"),
        "file address": (lambda g: g.tree.update(images=[{"uri": "file:///etc/hostname"}]), "beside it, got none"),
        "NUL in a path": (lambda g: g.tree.update(images=[{"uri": "a%00.png"}]), "expected a readable file"),
        "endless path": (lambda g: g.tree.update(images=[{"uri": "a" * 5000}]), "expected a readable file"),
        "broken base64": (lambda g: g.tree.update(images=[{"uri": "data:image/png;base64,%%%"}]), "expected base64"),
        "plain data": (lambda g: g.tree.update(images=[{"uri": "data:image/png,abc"}]), "expected base64"),
    }


@pytest.mark.parametrize("case", sorted(broken_trees()))
def test_broken_trees(case, tmp_path):
    folder = tmp_path / "assets"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(encoded([[[1, 2, 3, 255]]]))
    glb = textured_square()
    assert len(load(glb, folder).faces) == 2
    change, message = broken_trees()[case]
    change(glb)
    fails(glb, folder, message)


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    folder = tmp_path / "assets"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(encoded([[[1, 2, 3, 255]]]))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    glb = textured_square()
    glb.tree["images"] = [{"uri": "link.png"}]
    fails(glb, folder, "inside its own folder")


def test_limits_on_faces_and_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(glb_module, "MAX_FACES", 3)
    glb = textured_square()
    glb.node(mesh=0)
    fails(glb, tmp_path, "expected at most 3 triangles")
    monkeypatch.setattr(glb_container, "MAX_ASSET_BYTES", 100)
    fails(glb, tmp_path, r"got \d+ bytes, of which at most 100 are read")


def test_any_json_value_anywhere_never_raises_anything_else(tmp_path):
    """Every value of the JSON tree replaced in turn by each of a few others."""
    glb = textured_square()
    tree = json.loads(glb.content()[20 : 20 + struct.unpack_from("<I", glb.content(), 12)[0]])
    messages = []
    strange = [None, True, -1, 10**20, 0.5, NAN, "x", [], {}, [[]], {"a": 1}]

    def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [path] * bool(path) + [found for key, child in items for found in paths(child, (*path, key))]

    for path in paths(tree):
        for value in strange:
            changed = json.loads(json.dumps(tree))
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = value
            try:
                load(packed(json.dumps(changed).encode(), glb.binary), tmp_path)
            except AssetError as error:
                messages.append(str(error))
    assert len(messages) > 100
    assert not any("\n" in message for message in messages)


def test_images_of_the_limit_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(texture_files, "MAX_TEXTURE_SIDE", 2)
    assert len(load(textured_square(), tmp_path).faces) == 2
    monkeypatch.setattr(texture_files, "MAX_TEXTURE_SIDE", 1)
    fails(textured_square(), tmp_path, "2 x 2 pixels, expected at most 1 a side")


def test_decoders_keep_to_the_formats_of_gltf():
    """Pillow can open dozens of formats; fewer decoders are fewer ways in."""
    with pytest.raises(Image.UnidentifiedImageError):
        open_image(encoded(np.zeros((4, 4, 3)), "GIF"), 4)
