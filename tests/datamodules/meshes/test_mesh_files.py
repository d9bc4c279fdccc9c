"""OBJ and PLY files, plain folders of meshes and Google Scanned Objects, written here line by line."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from glb_writer import Glb
from PIL import Image
from torch.testing import assert_close

from ouroboros3d.datamodules.meshes.errors import AssetError
from ouroboros3d.datamodules.meshes.loading import load_mesh
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.readers.detection import READERS, open_tree
from ouroboros3d.datamodules.readers.meshes import MeshReader
from ouroboros3d.datamodules.readers.ouroboros3d import Ouroboros3DReader
from ouroboros3d.datamodules.rendering.jobs import RenderJob, RenderResult
from ouroboros3d.datamodules.rendering.worker import render_object
from ouroboros3d.renderers.textures import srgb_to_linear

TRIANGLE = ((0.1, 0.2, 0.3), (1.4, 0.2, 0.5), (0.3, 1.6, -0.7))
OBJ = "".join(f"v {x} {y} {z}\n" for x, y, z in TRIANGLE)


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def png(colour: tuple[int, ...], size: tuple[int, int] = (2, 2)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB" if len(colour) == 3 else "RGBA", size, colour).save(content, "PNG")
    return content.getvalue()


def test_obj_corners_colours_and_counting(tmp_path: Path) -> None:
    coloured = "".join(f"v {x} {y} {z} 0.5 0.25 1\n" for x, y, z in TRIANGLE)
    for text, colour in ((OBJ + "f 1 2 3\n", None), (OBJ + "f -3 -2 -1\n", None), (coloured + "f 1 2 \\\n3\n", True)):
        mesh = load_mesh(written(tmp_path / "a.obj", "# a comment\ns 1\n" + text))
        assert_close(mesh.corners, torch.tensor([TRIANGLE]))
        assert (mesh.vertex_colours_linear is not None) == bool(colour)
    expected = torch.cat([srgb_to_linear(torch.tensor([0.5, 0.25, 1])), torch.ones(1)])
    assert_close(mesh.vertex_colours_linear, expected.expand(3, 4))


def test_obj_and_ply_polygons_that_are_not_convex(tmp_path: Path) -> None:
    """A U, whose fan from most corners fills the gap: its area is 4 less that of the gap, and texture goes along."""
    outline = [(-1, -1), (1, -1), (1, 1), (0.6, 1), (0.6, -0.6), (-0.6, -0.6), (-0.6, 1), (-1, 1)]
    rows = [f"{x} {y} 0" for x, y in outline]
    for first in range(8):
        order = [(first + k) % 8 for k in range(8)]
        text = "".join(f"v {row}\nvt {row}\n" for row in rows) + "f " + " ".join(f"{k + 1}/{k + 1}" for k in order)
        header = "ply\nformat ascii 1.0\nelement vertex 8\nproperty double x\nproperty double y\nproperty double z\n"
        header += "element face 3\nproperty list uchar int vertex_indices\nend_header\n"
        lists = ["2 0 1", " ".join(map(str, [8, *order])), "1 3"]  # a line and a point have no area
        written(tmp_path / "a.obj", text)
        written(tmp_path / "a.ply", header + "\n".join([*rows, *lists]))
        for name in ("a.obj", "a.ply"):
            mesh = load_mesh(tmp_path / name)
            edges = mesh.corners[:, 1:] - mesh.corners[:, :1]
            areas = torch.linalg.cross(edges[:, 0], edges[:, 1])[:, 2] / 2
            assert (areas > 0).all()
            assert areas.sum().item() == pytest.approx(4 - 1.2 * 1.6)
            if name == "a.obj":
                assert_close(mesh.uv, mesh.corners[..., :2] * torch.tensor([1, -1]) + torch.tensor([0, 1]))


def test_obj_polygons_are_fans_and_texture_counts_from_below(tmp_path: Path) -> None:
    corners = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
    text = "".join(f"v {x} {y} {z}\nvt {x} {y}\n" for x, y, z in corners) + "f 1/1/1 2/2/1 3/3/1 4/4/1\n"
    mesh = load_mesh(written(tmp_path / "a.obj", text))
    assert_close(mesh.corners, torch.tensor(corners).float()[torch.tensor([[0, 1, 2], [0, 2, 3]])])
    assert_close(mesh.uv, torch.tensor([[[0.0, 1], [1, 1], [1, 0]], [[0, 1], [1, 0], [0, 0]]]))


def test_obj_materials(tmp_path: Path) -> None:
    (tmp_path / "skins").mkdir()
    (tmp_path / "skins/red.png").write_bytes(png((200, 30, 20)))
    mtl = "newmtl plain\nKd 0.5 0.25 1.0\nd 0.5\nnewmtl skin\nmap_Kd skins\\red.png\nillum 2\n"
    written(tmp_path / "things.mtl", mtl)
    faces = "usemtl skin\nf 1 2 3\nusemtl plain\nf 3 2 1\nusemtl skin\nf 2 3 1\n"
    mesh = load_mesh(written(tmp_path / "a.obj", "mtllib things.mtl\n" + OBJ + faces))
    assert mesh.material_index.tolist() == [0, 1, 0]
    skin, plain = mesh.materials
    assert skin.texture is not None
    assert skin.texture[0, 0].tolist() == [200, 30, 20, 255]
    assert skin.alpha_mode == "OPAQUE"
    assert plain.alpha_mode == "BLEND"
    assert_close(torch.tensor(plain.base_colour_linear[:3]), srgb_to_linear(torch.tensor([0.5, 0.25, 1.0])))
    assert plain.base_colour_linear[3] == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OBJ, "expected 1 to .* triangles, got none, perhaps a point cloud"),
        (OBJ + "f 1 2 4\n", "expected a valid line 4, got 'f 1 2 4' .*index of 3 lines, got 4"),
        (OBJ + "f 1 2 0\n", "got 0"),
        (OBJ + "f 1 2\n", "at least 3 corners"),
        (OBJ + "f 1 2 x\n", "line 4"),
        ("v 1 2\n" + OBJ + "f 1 2 3\n", "line 1.*a vertex has 3 numbers"),
        ("v nan 0 0\n" + OBJ + "f 1 2 3\n", "finite vertices"),
        (OBJ + "f 1 1 1\n", "an object with a size"),
        ("mtllib gone.mtl\n" + OBJ + "f 1 2 3\n", r"expected its materials in .*gone\.mtl"),
        ("mtllib ../other.mtl\n" + OBJ + "f 1 2 3\n", "names of files inside its folder"),
        (OBJ + "usemtl gone\nf 1 2 3\n", "expected material 'gone' in its MTL files, got none"),
    ],
)
def test_broken_obj_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AssetError, match=rf"a\.obj: .*{message}"):
        load_mesh(written(tmp_path / "a.obj", text))


@pytest.mark.parametrize(
    ("mtl", "message"),
    [
        ("map_Kd gone.png", "expected one texture 'gone.png', got none in"),
        ("map_Kd /etc/passwd", "names of files inside"),
        ("map_Kd C:\\pictures\\a.png", "names of files inside"),
        ("map_Kd -mm 0.2 2 text.png", "map_kd to be shown as it is, got '-mm 0.2 2'"),
        ("map_Kd -t 1 1 1 text.png", "got '-t 1 1 1'"),
        ("map_Kd -odd on text.png", "got '-odd'"),
        ("map_Kd -s 1 1 1", "got '-s 1 1 1'"),
        ("map_Kd", "got 'no file'"),
        ("decal text.png", "base colours without decal"),
        ("map_d text.png", "map_d to be the alpha of map_Kd None, got 'text.png'; convert it to GLB"),
        ("Kd spectral a.rfl", "a colour of three numbers, got 'Kd spectral a.rfl'"),
        ("Kd 0 300 0", "a colour from 0 to 300 where 0 to 1 or 0 to 255 was expected"),
        ("d 12", "expected d of 0 to 1 in .*a.mtl, got '12'"),
        ("map_Kd text.png", r"text.png: expected an image \(PNG, JPEG, WEBP or BMP\), got UnidentifiedImageError"),
        ("map_Kd text.tga", r"text.tga: expected an image \(PNG, JPEG, WEBP, BMP or TGA\), got UnidentifiedImageError"),
    ],
)
def test_textures_that_cannot_be_had(tmp_path: Path, mtl: str, message: str) -> None:
    for name in ("text.png", "text.tga"):
        written(tmp_path / name, "no picture")
    written(tmp_path / "a.mtl", f"newmtl skin\n{mtl}\n")
    with pytest.raises(AssetError, match=message):
        load_mesh(written(tmp_path / "a.obj", "mtllib a.mtl\n" + OBJ + "usemtl skin\nf 1 2 3\n"))


def binary_ply(order: str, faces: list[list[int]], extra: bool = False) -> bytes:
    """Vertices with colours, and polygons."""
    mark, name = {"<": ("<", "little"), ">": (">", "big")}[order]
    properties = "".join(f"property float {axis}\n" for axis in "xyz") + "".join(
        f"property uchar {colour}\n" for colour in ("red", "green", "blue")
    )
    header = f"ply\nformat binary_{name}_endian 1.0\nelement vertex 3\n{properties}element face {len(faces)}\n"
    header += "property list uchar int vertex_indices\n" + ("property uchar flags\n" if extra else "") + "end_header\n"
    body = b"".join(struct.pack(f"{mark}3f3B", *point, 10, 20, 250) for point in TRIANGLE)
    for face in faces:
        body += struct.pack(f"{mark}B{len(face)}i", len(face), *face) + (b"\x07" if extra else b"")
    return header.encode() + body


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("extra", [False, True])
def test_binary_ply(tmp_path: Path, order: str, extra: bool) -> None:
    path = tmp_path / "a.ply"
    colour = torch.cat([srgb_to_linear(torch.tensor([10, 20, 250]) / 255), torch.ones(1)])
    for faces in ([[0, 1, 2]], [[0, 1, 2], [2, 1, 0, 0]]):
        path.write_bytes(binary_ply(order, faces, extra))
        mesh = load_mesh(path)
        assert_close(mesh.corners[0], torch.tensor(TRIANGLE))
        assert len(mesh.faces) == (1 if len(faces) == 1 else 3)
        assert mesh.vertex_colours_linear is not None
        assert_close(mesh.vertex_colours_linear, colour.expand(3, 4))


def test_ascii_ply_and_what_another_library_writes(tmp_path: Path) -> None:
    header = "ply\nformat ascii 1.0\ncomment made by hand\nelement vertex 3\n"
    header += "property float x\nproperty float y\nproperty float z\nelement face 1\n"
    header += "property list uchar int vertex_index\nend_header\n"
    rows = "".join(f"{x} {y} {z}\n" for x, y, z in TRIANGLE)
    assert_close(load_mesh(written(tmp_path / "a.ply", header + rows + "3 0 1 2\n")).corners, torch.tensor([TRIANGLE]))
    sphere = trimesh.creation.icosphere(1)
    for encoding in ("ascii", "binary"):
        path = tmp_path / "sphere.ply"
        sphere.export(path, encoding=encoding)
        found = load_mesh(path)
        assert_close(found.corners, torch.from_numpy(sphere.triangles.copy()).float(), atol=1e-6, rtol=0)


def ascii_ply(path: Path, kind: str, names: str, values: str, faces: bool = False) -> Path:
    """The triangle twice, with colours of vertices, or of the two faces."""
    properties = "".join(f"property {kind} {name}\n" for name in names.split())
    header = "ply\nformat ascii 1.0\nelement vertex 3\n" + "".join(f"property float {axis}\n" for axis in "xyz")
    header += ("" if faces else properties) + "element face 2\nproperty list uchar int vertex_indices\n"
    rows = [" ".join(map(str, point)) for point in TRIANGLE]
    lists, coloured = ["3 0 1 2", "3 2 1 0"], values.split(",")
    if faces:
        lists = [f"{row} {colour}" for row, colour in zip(lists, coloured, strict=True)]
    else:
        rows = [f"{row} {colour}" for row, colour in zip(rows, coloured, strict=True)]
    return written(path, header + (properties if faces else "") + "end_header\n" + "\n".join([*rows, *lists]))


SRGB = torch.tensor([[200, 90, 10], [0, 255, 51], [10, 20, 30]]) / 255
BYTES, UNIT = "200 90 10,0 255 51,10 20 30", ",".join(" ".join(f"{x / 255:.6f}" for x in row) for row in SRGB * 255)


@pytest.mark.parametrize(
    "names", ["red green blue", "r g b", "diffuse_red diffuse_green diffuse_blue", "Red Green Blue"]
)
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        *[("uchar", BYTES), ("int", BYTES), ("float", BYTES), ("float", UNIT), ("double", UNIT)],
        ("ushort", ",".join(" ".join(str(int(x) * 257) for x in row.split()) for row in BYTES.split(","))),
    ],
)
def test_ply_colours_by_any_name_and_range(tmp_path: Path, names: str, kind: str, values: str) -> None:
    mesh = load_mesh(ascii_ply(tmp_path / "a.ply", kind, names, values))
    assert mesh.vertex_colours_linear is not None
    assert_close(mesh.vertex_colours_linear[:, :3], srgb_to_linear(SRGB), atol=1e-6, rtol=0)
    of_faces = load_mesh(ascii_ply(tmp_path / "b.ply", kind, names, values.rpartition(",")[0], faces=True))
    assert_close(of_faces.corners, torch.tensor([TRIANGLE, TRIANGLE[::-1]]))
    assert of_faces.vertex_colours_linear is not None
    found = of_faces.vertex_colours_linear[of_faces.faces]
    assert_close(found[..., :3], srgb_to_linear(SRGB[:2, None].expand(2, 3, 3)), atol=1e-6, rtol=0)


def test_obj_colours_of_0_to_255(tmp_path: Path) -> None:
    rows = [" ".join(map(str, point)) for point in TRIANGLE]
    for values in (BYTES, UNIT):
        lines = [f"v {row} {colour}\n" for row, colour in zip(rows, values.split(","), strict=True)]
        mesh = load_mesh(written(tmp_path / "a.obj", "".join(lines) + "v 0 0 0\nf 1 2 3\nf 2 3 4\n"))
        assert mesh.vertex_colours_linear is not None
        white = torch.ones(1, 3)  # what has no colour of its own
        assert_close(mesh.vertex_colours_linear[:, :3], srgb_to_linear(torch.cat([SRGB, white])), atol=1e-6, rtol=0)


@pytest.mark.parametrize("colours", ["1.5 1 1", "-3 0 0", "0 0 300", "0 nan 0"])
def test_colours_of_no_known_range_are_refused(tmp_path: Path, colours: str) -> None:
    paths = [
        written(tmp_path / "a.obj", "".join(f"v {x} {y} {z} {colours}\n" for x, y, z in TRIANGLE) + "f 1 2 3\n"),
        ascii_ply(tmp_path / "a.ply", "float", "r g b", ",".join([colours] * 3)),
    ]
    for path in paths:
        with pytest.raises(
            AssetError, match=r"colours of vertices from .* to .* where 0 to 1 or 0 to 255 was expected"
        ):
            load_mesh(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "expected a PLY header"),
        (binary_ply("<", [[0, 1, 2]])[:-6], "expected a valid PLY file"),
        (binary_ply("<", [[0, 1, 3]]), "expected indices of 3 vertices, got 0 to 3"),
        (binary_ply("<", []), "perhaps a point cloud"),
        (
            binary_ply("<", [[0, 1, 2]]).replace(b"element", b"comment TextureFile a.png\nelement", 1),
            "convert it to GLB",
        ),
        (binary_ply("<", [[0, 1, 2]]).replace(b"vertex 3", b"vertex 999999999"), "expected a valid PLY file"),
    ],
)
def test_broken_ply_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.ply").write_bytes(content)
    with pytest.raises(AssetError, match=rf"a\.ply: .*{message}"):
        load_mesh(tmp_path / "a.ply")


def test_z_up_files_are_turned(tmp_path: Path) -> None:
    path = written(tmp_path / "a.obj", OBJ + "f 1 2 3\n")
    turned = torch.tensor([[x, z, -y] for x, y, z in TRIANGLE])
    assert_close(load_mesh(path, z_up=True).corners, turned[None])
    with pytest.raises(AssetError, match=r"expected one of \.glb, \.obj, \.ply, got \.stl"):
        load_mesh(written(tmp_path / "a.stl", ""))


def scanned(root: Path, name: str, colour: tuple[int, ...]) -> Path:
    """An object of Google Scanned Objects: every one has the same file names, and the texture is not where MTL says."""
    folder = root / name
    written(folder / "metadata.pbtxt", f'name: "{name}"\n')
    written(folder / "meshes/model.mtl", "newmtl material_0\nKd 1.000000 1.000000 1.000000\nmap_Kd texture.png\n")
    text = "mtllib model.mtl\n" + OBJ + "vt 0 0\nusemtl material_0\nf 1/1 2/1 3/1\n"
    written(folder / "meshes/model.obj", text)
    (folder / "materials/textures").mkdir(parents=True)
    (folder / "materials/textures/texture.png").write_bytes(png(colour))
    return folder


def test_google_scanned_objects_find_their_own_texture(tmp_path: Path) -> None:
    scanned(tmp_path, "Red_Shoe", (255, 0, 0))
    blue = scanned(tmp_path, "Blue_Mug", (0, 0, 255))
    assert [name for name, reader in READERS.items() if reader.matches(tmp_path)] == ["google_scanned_objects"]
    reader = open_tree(tmp_path)
    assert isinstance(reader, MeshReader)
    assets = reader.select()
    assert [(asset.uid, asset.license, asset.z_up) for asset in assets] == [
        ("Blue_Mug", "by", True),
        ("Red_Shoe", "by", True),
    ]
    colours = [load_mesh(asset.path, asset.z_up).materials[0].texture[0, 0, :3].tolist() for asset in assets]
    assert colours == [[0, 0, 255], [255, 0, 0]]
    (blue / "meshes/texture.png").write_bytes((blue / "materials/textures/texture.png").read_bytes())
    load_mesh(assets[0].path)  # twice the same
    (blue / "texture.png").write_bytes(png((0, 255, 0)))
    with pytest.raises(AssetError, match=r"expected one texture 'texture.png', got .* and "):
        load_mesh(assets[0].path)
    for path in blue.rglob("*.png"):
        path.unlink()
    with pytest.raises(AssetError, match=r"expected one texture 'texture.png', got none in"):
        load_mesh(assets[0].path)


def test_plain_folders_of_meshes(tmp_path: Path) -> None:
    glb = Glb()
    glb.node(mesh=glb.mesh(TRIANGLE, [0, 1, 2]))
    (tmp_path / "cup.glb").write_bytes(glb.content())
    written(tmp_path / "chair/model.obj", OBJ + "f 1 2 3\n")
    (tmp_path / "pair").mkdir()
    for name in ("left.ply", "right.ply"):
        (tmp_path / "pair" / name).write_bytes(binary_ply("<", [[0, 1, 2]]))
    assert [name for name, reader in READERS.items() if reader.matches(tmp_path)] == ["meshes"]
    reader = open_tree(tmp_path)
    assert isinstance(reader, MeshReader)
    assert reader.uids == ["chair", "cup", "pair_left", "pair_right"]
    for asset in reader.select():
        assert_close(load_mesh(asset.path, asset.z_up).corners, torch.tensor([TRIANGLE]))
    with pytest.raises(ValueError, match=r"categories: .* has the format meshes, which has none"):
        reader.select(["cup"])
    with pytest.raises(ValueError, match=r"uids: .*got 'cap'; did you mean cup"):
        reader.select(uids=["cap"])
    written(tmp_path / "chair.obj", OBJ)
    with pytest.raises(ValueError, match=r"expected one mesh of a name, got .*chair\.obj and .*model\.obj"):
        _ = open_tree(tmp_path).uids


def test_normalised_meshes_do_not_depend_on_the_format(tmp_path: Path) -> None:
    meshes = []
    for number, suffix in enumerate(("glb", "obj", "ply")):
        box = trimesh.creation.box([1.0, 0.3, 0.6])
        box.apply_translation([3, -1, number])
        path = tmp_path / f"box.{suffix}"
        box.export(path)
        meshes.append(load_mesh(path).normalised()[0].corners)
    for other in meshes[1:]:
        order = [np.lexsort(mesh.flatten(1).numpy().round(4).T) for mesh in (meshes[0], other)]
        assert_close(meshes[0][order[0]], other[order[1]], atol=1e-6, rtol=0)


def test_a_scan_is_rendered_upright_in_its_own_colours(tmp_path: Path) -> None:
    """A mast along the scan's z axis stands upright in the views, whose cameras know no roll."""
    scanned(tmp_path / "tree", "Mast", (250, 10, 20))
    corners = [(x, y, z) for x in (0, 0.1) for y in (0, 0.2) for z in (0, 1)]
    faces = trimesh.creation.box(bounds=[[0, 0, 0], [0.1, 0.2, 1]]).faces + 1
    lines = [f"v {x} {y} {z}" for x, y, z in corners] + [f"f {a}/1 {b}/1 {c}/1" for a, b, c in faces]
    text = "mtllib model.mtl\nvt 0.5 0.5\nusemtl material_0\n" + "\n".join(lines)
    written(tmp_path / "tree/Mast/meshes/model.obj", text)
    reader = open_tree(tmp_path / "tree")
    assert isinstance(reader, MeshReader)
    (asset,) = reader.select()
    rig = OrbitRig(image_size=24, orbits=1, views=4, elevation_deg=(0.0, 0.0), supersampling=1)
    job = RenderJob(
        asset.uid, str(asset.path), "0", asset.license, asset.source, str(tmp_path), rig.as_dict(), 60, z_up=asset.z_up
    )
    assert render_object(job) == RenderResult("done")
    found = Ouroboros3DReader(tmp_path).read("Mast")
    for view in range(4):
        pixels = found.rgba(view)
        rows, columns = (pixels[..., 3] > 127).nonzero(as_tuple=True)
        assert rows.max() - rows.min() > 3 * (columns.max() - columns.min())
        assert (pixels[rows, columns, :3].float() - torch.tensor([250.0, 10, 20])).abs().max() < 2
