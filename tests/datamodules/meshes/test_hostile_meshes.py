"""Mesh files that are broken or made to do harm: an `AssetError` of one line, or a mesh that can be rendered."""

import base64
import binascii
import json
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from damage import SEEDS, bounded, damaged, few, fuzz, one_line
from glb_writer import TRIANGLE, Glb, encoded, packed, textured_square
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ouroboros3d.datamodules.meshes import glb_container, glb_scene, obj, texture_files
from ouroboros3d.datamodules.meshes.errors import AssetError
from ouroboros3d.datamodules.meshes.loading import load_mesh

OBJ = """mtllib thing.mtl
v 0 0 0 1 0 0
v 1 0 0 0 1 0
v 0 2 0.5 0 0 1
v 1 2 -0.5
vt 0 0
vt 1 0.5
usemtl cloth
f 1/1 2/2 3/1
f 2/1 -1/2 3/1
"""
MTL = "newmtl cloth\nKd 0.5 0.6 0.7\nd 0.9\nmap_Kd cloth.png\n"
PLY_HEADER = (
    b"ply\nformat %s 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    b"property uchar red\nproperty uchar green\nproperty uchar blue\n"
    b"element face 2\nproperty list uchar int vertex_indices\nend_header\n"
)
ROWS = ((0.0, 0.0, 0.0, 255, 0, 0), (1.0, 0.0, 0.0, 0, 255, 0), (0.0, 2.0, 0.5, 0, 0, 255), (1.0, 2.0, 0.0, 9, 9, 9))
ASCII_PLY = (
    PLY_HEADER % b"ascii" + "\n".join(" ".join(map(str, row)) for row in ROWS).encode() + b"\n3 0 1 2\n3 1 3 2\n"
)
BINARY_PLY = (
    PLY_HEADER % b"binary_little_endian"
    + b"".join(struct.pack("<fffBBB", *row) for row in ROWS)
    + struct.pack("<BiiiBiii", 3, 0, 1, 2, 3, 1, 3, 2)
)
CLOTH = encoded(np.arange(48).reshape(4, 4, 3) * 5)
# Of every kind: the file that is opened, those beside it, and the one that is damaged.
FILES: dict[str, tuple[str, dict[str, bytes], str]] = {
    "glb": ("thing.glb", {"thing.glb": textured_square().content()}, "thing.glb"),
    "obj": ("thing.obj", {"thing.obj": OBJ.encode(), "thing.mtl": MTL.encode(), "cloth.png": CLOTH}, "thing.obj"),
    "mtl": ("thing.obj", {"thing.obj": OBJ.encode(), "thing.mtl": MTL.encode(), "cloth.png": CLOTH}, "thing.mtl"),
    "png": ("thing.obj", {"thing.obj": OBJ.encode(), "thing.mtl": MTL.encode(), "cloth.png": CLOTH}, "cloth.png"),
    "ascii ply": ("thing.ply", {"thing.ply": ASCII_PLY}, "thing.ply"),
    "binary ply": ("thing.ply", {"thing.ply": BINARY_PLY}, "thing.ply"),
}


def refused(path: Path) -> str:
    """The one line that a file is refused with; empty for a mesh that can be rendered."""
    try:
        mesh = load_mesh(path)
    except AssetError as error:
        message = one_line(error)
        assert message.startswith(f"{path}: ")
        return message
    assert mesh.normalised()[0].vertices.isfinite().all()
    assert mesh.uv.isfinite().all()
    assert mesh.faces.shape == (len(mesh.material_index), 3)
    assert 0 <= mesh.faces.min() <= mesh.faces.max() < len(mesh.vertices)
    assert 0 <= mesh.material_index.min() <= mesh.material_index.max() < len(mesh.materials)
    if mesh.vertex_colours_linear is not None:
        assert mesh.vertex_colours_linear.shape == (len(mesh.vertices), 4)
        assert 0 <= mesh.vertex_colours_linear.min() <= mesh.vertex_colours_linear.max() <= 1
    return ""


def written(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(("suffix", "begin"), [("glb", b""), ("obj", b""), ("ply", b"ply\n"), ("glb", b"glTF\2\0\0\0")])
def test_any_bytes(suffix: str, begin: bytes, tmp_path: Path) -> None:
    @few(40)
    @given(st.binary(max_size=200))
    def check(content: bytes) -> None:
        (tmp_path / f"thing.{suffix}").write_bytes(begin + content)
        assert refused(tmp_path / f"thing.{suffix}")

    check()


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files(kind: str, tmp_path: Path) -> None:
    opened, files, victim = FILES[kind]
    written(tmp_path, files)
    assert not refused(tmp_path / opened)
    found = set()
    for seed in range(80):
        (tmp_path / victim).write_bytes(damaged(files[victim], seed))
        found.add(bool(refused(tmp_path / opened)))
    assert found == {True, False}, "damage is found, and not all of it is fatal"


@pytest.mark.parametrize("kind", [kind for kind in fuzz.DAMAGES if kind != "bomb"])
def test_damaged_structure_of_glb_files(kind: str, tmp_path: Path) -> None:
    """What `benchmarks/fuzz.py` does thousands of times, here on a file with skin, morph target and sparse data."""
    content = everything().content()
    (tmp_path / "thing.glb").write_bytes(content)
    assert not refused(tmp_path / "thing.glb")
    messages = []

    @few(60)
    @given(SEEDS)
    def check(seed: int) -> None:
        (tmp_path / "thing.glb").write_bytes(fuzz.DAMAGES[kind](content, Random(seed)))
        with bounded(64):
            messages.append(refused(tmp_path / "thing.glb"))

    check()
    assert any(messages)


def everything() -> Glb:
    """Each feature that the reader knows, once."""
    glb = textured_square()
    joints, weights = glb.accessor([[0, 1, 0, 0]] * 3, "uint8"), glb.accessor([[0.5, 0.5, 0, 0]] * 3)
    sparse = {
        "count": 1,
        "indices": {"bufferView": glb.view(b"\1"), "componentType": 5121},
        "values": {"bufferView": glb.view(np.array([1, 2, 3], "<f4").tobytes())},
    }
    moved = glb.add("accessors", {"componentType": 5126, "count": 3, "type": "VEC3", "sparse": sparse})
    colours = glb.accessor([[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 99]], "uint8", normalized=True)
    mesh = glb.mesh(
        TRIANGLE,
        [0, 1, 2],
        JOINTS_0=joints,
        WEIGHTS_0=weights,
        COLOR_0=colours,
        material=glb.material([[[9, 8, 7, 6]]], sampler={"wrapS": 33071}, alphaMode="MASK"),
        targets=[{"POSITION": moved}],
    )
    glb.tree["meshes"][mesh]["weights"] = [0.5]
    first = glb.node(translation=[0, 0, 1], rotation=[0, 0, 0, 1], scale=[1, 1, 1])
    second = glb.node(first, matrix=np.eye(4).flatten().tolist())
    bind = glb.accessor(np.stack([np.eye(4)] * 2).reshape(2, 16))
    glb.tree["skins"] = [{"joints": [first, second], "inverseBindMatrices": bind}]
    glb.node(mesh=mesh, skin=0)
    return glb


def position(glb: Glb) -> dict[str, Any]:
    entry: dict[str, Any] = glb.tree["accessors"][glb.tree["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
    return entry


def zeros(glb: Glb, count: int) -> None:
    """A claim of numbers that take no byte of the file."""
    position(glb).update(count=count)
    del position(glb)["bufferView"]


def sparse_zeros(glb: Glb) -> None:
    changes = {"count": 10**9, "indices": {"bufferView": 0, "componentType": 5121}, "values": {"bufferView": 0}}
    position(glb).update(sparse=changes)


def wide(glb: Glb) -> None:
    glb.tree["bufferViews"][0]["byteStride"] = 2**39


def circle(glb: Glb) -> None:
    glb.tree["nodes"] = [{"mesh": 0, "children": [1]}, {"children": [2]}, {"children": [0]}]


def far_parent(glb: Glb) -> None:
    """One child of thousands of nodes, each with a list of all others."""
    glb.tree["nodes"] = [{"mesh": 0, "children": list(range(100))}] * 100


def deep_chain(glb: Glb) -> None:
    glb.tree["nodes"] = [{"children": [index + 1]} for index in range(5000)] + [{"mesh": 0}]


def tiny_object(glb: Glb) -> None:
    glb.tree["nodes"][0]["scale"] = [1e-42] * 3  # as float32 it would have no shape


def huge_object(glb: Glb) -> None:
    glb.tree["nodes"][0]["scale"] = [1e37] * 3


def many_joints(glb: Glb) -> None:
    glb.tree["nodes"][0]["skin"] = 0
    glb.tree["skins"] = [{"joints": [0] * 200_000}]
    glb.tree["meshes"][0]["primitives"][0]["attributes"]["JOINTS_0"] = glb.accessor([[0] * 4] * 4, "uint8")


BOMBS: dict[str, tuple[Callable[[Glb], None], str]] = {
    "more numbers than any object has": (
        lambda g: zeros(g, 10**9),
        "expected at most 20000000 numbers, got 3000000000",
    ),
    "2^63 of them": (lambda g: zeros(g, 2**63), "expected a whole number from 0, got 9223372036854775808"),
    "sparse numbers": (sparse_zeros, "expected at most 200000000 numbers in all"),
    "a stride beyond any file": (wide, "expected an end within its"),
    "nodes in a circle": (circle, "expected a tree of nodes, got node 0 twice"),
    "nodes of all others": (far_parent, "expected a tree of nodes, got node"),
    "joints of no skeleton": (many_joints, "expected at most 100000 joints of a skin, got 200000"),
    "a shape below float32": (tiny_object, "expected an object with a size, got an extent of 2e-42"),
    "a shape beyond float32": (huge_object, "expected finite vertices"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_claims_are_refused_before_anything_is_made_of_them(case: str, tmp_path: Path) -> None:
    change, message = BOMBS[case]
    glb = textured_square()
    change(glb)
    (tmp_path / "thing.glb").write_bytes(glb.content())
    with bounded(8):
        assert message in refused(tmp_path / "thing.glb")


def test_a_deep_tree_of_nodes_is_no_recursion(tmp_path: Path) -> None:
    glb = textured_square()
    deep_chain(glb)
    (tmp_path / "thing.glb").write_bytes(glb.content())
    assert not refused(tmp_path / "thing.glb")


def test_all_that_is_read_is_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list may be named by any number of parts; each reads it again."""
    glb = textured_square()
    (tmp_path / "thing.glb").write_bytes(glb.content())
    monkeypatch.setattr(glb_container, "MAX_NUMBERS_READ", 100)
    assert not refused(tmp_path / "thing.glb")
    glb.tree["meshes"][0]["primitives"] *= 5
    (tmp_path / "thing.glb").write_bytes(glb.content())
    assert "expected at most 100 numbers in all" in refused(tmp_path / "thing.glb")
    monkeypatch.setattr(glb_container, "MAX_NUMBERS_READ", 1000)
    monkeypatch.setattr(glb_scene, "MAX_PARTS", 5)
    assert "expected at most 5 nodes and primitives" in refused(tmp_path / "thing.glb")


def test_all_textures_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, FILES["obj"][1])
    (tmp_path / "thing.mtl").write_text(MTL + "newmtl other\nmap_Kd other.png\n")
    (tmp_path / "thing.obj").write_text(OBJ + "usemtl other\nf 1 2 3\n")
    (tmp_path / "other.png").write_bytes(CLOTH)
    assert not refused(tmp_path / "thing.obj")
    monkeypatch.setattr(texture_files, "MAX_TEXTURE_PIXELS", 31)
    assert "expected at most 31 pixels in all textures" in refused(tmp_path / "thing.obj")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_image_bombs_are_not_unpacked(kind: str, tmp_path: Path) -> None:
    """Few bytes that claim to be 300 megapixels: the size is changed where each format says it."""
    content = bytearray(encoded(Image.new("RGB", (40, 40)), kind))
    if kind == "PNG":
        content[16:24] = struct.pack(">II", 20_000, 15_000)
        content[29:33] = struct.pack(">I", binascii.crc32(content[12:29]))
    elif kind == "JPEG":
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = struct.pack(">HH", 15_000, 20_000)
    else:
        content[21:25] = struct.pack("<I", (16_000 - 1) | (16_000 - 1) << 14)  # VP8L's
    glb = textured_square()
    glb.tree["images"] = [{"bufferView": glb.view(bytes(content))}]
    (tmp_path / "thing.glb").write_bytes(glb.content())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "expected an image (PNG, JPEG or WEBP)" in refused(tmp_path / "thing.glb")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024, "KiB that Pillow has taken"


def special_files(folder: Path) -> dict[str, str]:
    """What is no file to read, and the words that it is refused with."""
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "circle").symlink_to("circle")
    (folder / "nothing").symlink_to("nowhere")
    (folder / "huge").touch()
    os.truncate(folder / "huge", 2**40)  # takes no room
    return {
        "folder": "a folder",
        "pipe": "no regular file",
        "zero": "no regular file",
        "circle": "symbolic links",
        "nothing": "No such file",
        "huge": "1099511627776 bytes, of which at most 1073741824 are read",
    }


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply"])
def test_what_is_no_file_is_not_read(suffix: str, tmp_path: Path) -> None:
    for name, message in special_files(tmp_path).items():
        path = tmp_path / f"{name}.{suffix}"
        (tmp_path / name).rename(path) if name != "circle" else path.symlink_to(path.name)
        with bounded(1):
            assert message in refused(path)


def test_files_that_name_what_is_no_file(tmp_path: Path) -> None:
    glb = textured_square()
    names = special_files(tmp_path)
    (tmp_path / "thing.mtl").write_text(MTL)
    for name in names:
        glb.tree["images"] = [{"uri": name}]
        (tmp_path / "thing.glb").write_bytes(glb.content())
        (tmp_path / "texture.obj").write_text(OBJ.replace("thing.mtl", "texture.mtl"))
        (tmp_path / "texture.mtl").write_text(MTL.replace("cloth.png", name))
        (tmp_path / "library.obj").write_text(OBJ.replace("thing.mtl", name))
        for opened in ("thing.glb", "texture.obj", "library.obj"):
            with bounded(1):
                assert refused(tmp_path / opened), (name, opened)


LEADING_AWAY = ("../secret", "/etc/hostname", "sub/../../secret", "away", "far/secret", "file:///etc/hostname")


@pytest.mark.parametrize("name", [*LEADING_AWAY, "..\\secret", "C:secret"])
def test_names_lead_nowhere_else(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(CLOTH)
    (folder / "away").symlink_to(tmp_path / "secret")
    (folder / "far").symlink_to(tmp_path)
    (folder / "thing.mtl").write_text(MTL.replace("cloth.png", name))
    (folder / "thing.obj").write_text(OBJ)
    assert "expected names of files inside its folder" in refused(folder / "thing.obj")
    (folder / "thing.obj").write_text(OBJ.replace("thing.mtl", name))
    assert "expected names of files inside its folder" in refused(folder / "thing.obj")
    glb = textured_square()
    glb.tree["images"] = [{"uri": name}]
    (folder / "thing.glb").write_bytes(glb.content())
    assert "expected files inside its own folder" in (said := refused(folder / "thing.glb")) or "got none" in said


def test_textures_of_scans_are_not_followed_through_links(tmp_path: Path) -> None:
    meshes, elsewhere = tmp_path / "scan/meshes", tmp_path / "elsewhere"
    for folder in (meshes, tmp_path / "scan/materials", elsewhere):
        folder.mkdir(parents=True)
    written(meshes, {"thing.obj": OBJ.encode(), "thing.mtl": MTL.encode()})
    (elsewhere / "cloth.png").write_bytes(CLOTH)
    (tmp_path / "scan/materials/textures").symlink_to(elsewhere)
    assert "expected names of files inside its folder" in refused(meshes / "thing.obj")


PLY_BOMBS = {
    "rows of nothing": (b"element vertex 1000000000\nelement face 2\nproperty list uchar int vertex_indices\n", b""),
    "more rows than bytes": (b"element vertex 9999999\nproperty float x\n", b"\0" * 8),
    "lists of no length": (b"element face 4000000\nproperty list uchar int vertex_indices\n", b"\0" * 8),
    "a list of four billion": (b"element face 1\nproperty list uint int vertex_indices\n", b"\xff" * 8),
    "a list of minus one": (b"element face 1\nproperty list char int vertex_indices\n", b"\xff" * 8),
    "colours that are lists": (
        b"element vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
        b"property list uchar uchar red\nproperty list uchar uchar green\nproperty list uchar uchar blue\n"
        b"element face 1\nproperty list uchar uchar vertex_indices\n",
        struct.pack("<fff4B4B4B4B", 1, 2, 3, 3, 1, 2, 3, 3, 1, 2, 3, 3, 1, 2, 3, 3, 0, 0, 0),
    ),
}


@pytest.mark.parametrize("case", PLY_BOMBS)
@pytest.mark.parametrize("kind", [b"ascii", b"binary_little_endian"])
def test_ply_claims_are_refused_before_anything_is_made_of_them(kind: bytes, case: str, tmp_path: Path) -> None:
    header, body = PLY_BOMBS[case]
    (tmp_path / "thing.ply").write_bytes(b"ply\nformat " + kind + b" 1.0\n" + header + b"end_header\n" + body)
    with bounded(8):
        assert refused(tmp_path / "thing.ply")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("v 1e400 0 0", "expected finite vertices"),
        ("v nan 0 0", "expected finite vertices"),
        ("vt 1e31 0", "expected finite texture coordinates"),
        ("f " + "9" * 5000, "expected a valid line"),
        ("f 1 2 99999999999999999999", "expected an index of 4 lines"),
        ("usemtl " + "x" * 5000, "expected material 'xxx"),
    ],
)
def test_obj_numbers_that_are_none(line: str, message: str, tmp_path: Path) -> None:
    written(tmp_path, FILES["obj"][1])
    text = OBJ.replace("vt 1 0.5", line) if line[:2] == "vt" else OBJ.replace("v 0 0 0 1 0 0", line)
    (tmp_path / "thing.obj").write_text(text if line[0] == "v" else OBJ + line + "\n")
    assert message in refused(tmp_path / "thing.obj")


def test_a_mesh_file_has_no_more_lists_than_any_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, FILES["obj"][1])
    for name, value, message in (
        ("MAX_NUMBERS", 9, "at most 3 vertices"),
        ("MAX_NUMBERS", 3, "at most 1 vertices"),
        ("MAX_FACES", 1, "at most 1 triangles"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(obj, name, value)
            assert message in refused(tmp_path / "thing.obj")


def test_data_uris_are_no_longer_than_their_file(tmp_path: Path) -> None:
    glb = textured_square()
    glb.tree["buffers"] = [{"byteLength": 10**9, "uri": "data:;base64," + base64.b64encode(glb.binary).decode()}]
    (tmp_path / "thing.glb").write_bytes(packed(json.dumps(glb.tree).encode(), b""))
    with bounded(4):
        assert "expected 1000000000 bytes, got" in refused(tmp_path / "thing.glb")
