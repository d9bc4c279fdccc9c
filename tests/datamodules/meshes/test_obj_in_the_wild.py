"""OBJ and MTL as programs write them: each file here says in its own way what the plain one says."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ouroboros3d.datamodules.meshes.errors import AssetError
from ouroboros3d.datamodules.meshes.obj import load_obj
from ouroboros3d.renderers.meshes import Material, TexturedMesh
from ouroboros3d.renderers.textures import srgb_to_linear

CORNERS = ((0.1, 0.2, 0.3), (1.4, 0.2, 0.5), (0.3, 1.6, -0.7))
UV = ((0.25, 0.5), (0.75, 0.5), (0.25, 1.0))
OBJ = "\n".join(
    [
        "mtllib a.mtl",
        *(f"v {x} {y} {z}" for x, y, z in CORNERS),
        *(f"vt {u} {v}" for u, v in UV),
        "usemtl skin",
        "f 1/1 2/2 3/3",
        "",
    ]
)
MTL = "newmtl skin\nKd 1.0 0.5 0.25\n"
COLOUR = srgb_to_linear(torch.tensor([1.0, 0.5, 0.25]))
RED = (200, 30, 20)


def picture(kind: str = "PNG", colour: tuple[int, ...] = RED) -> bytes:
    content = io.BytesIO()
    Image.new("RGB" if len(colour) == 3 else "RGBA", (2, 2), colour).save(content, kind)
    return content.getvalue()


def load(folder: Path, files: dict[str, str | bytes]) -> TexturedMesh:
    """Of `a.obj` among these files, plain where they are not given."""
    for name, content in {"a.obj": OBJ, "a.mtl": MTL, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_obj(folder / "a.obj")


def skin(mesh: TexturedMesh) -> Material:
    return mesh.materials[int(mesh.material_index[0])]


def untouched(obj: str, old: str, new: str) -> str:
    assert old in obj
    return obj.replace(old, new)


PLAIN: dict[str, dict[str, str | bytes]] = {
    "as it is": {},
    "tabs": {"a.obj": OBJ.replace(" ", "\t"), "a.mtl": MTL.replace(" ", "\t")},
    "tabs at the front and several spaces": {
        "a.obj": OBJ.replace(" ", "   ").replace("\n", "\n \t"),
        "a.mtl": MTL.replace("Kd", "\tKd\t"),
    },
    "no-break spaces and a vertical tab": {
        "a.obj": OBJ.replace("v ", "v\u00a0"),
        "a.mtl": MTL.replace("Kd ", "Kd\x0b"),
    },
    "upper case": {"a.obj": OBJ.replace("usemtl", "USEMTL").replace("mtllib", "MtlLib").replace("v ", "V ")},
    "keywords of materials in other cases": {"a.mtl": MTL.replace("newmtl", "NewMtl").replace("Kd", "KD")},
    "byte order marks": {"a.obj": "\ufeff" + OBJ, "a.mtl": "\ufeff" + MTL},
    "UTF-16": {"a.obj": OBJ.encode("utf-16"), "a.mtl": MTL.encode("utf-16")},
    "ends of lines of Windows": {"a.obj": OBJ.replace("\n", "\r\n"), "a.mtl": MTL.replace("\n", "\r\n")},
    "ends of lines of the first Macs": {"a.obj": OBJ.replace("\n", "\r"), "a.mtl": MTL.replace("\n", "\r")},
    "comments behind lines": {
        "a.obj": OBJ.replace("\n", " # said 1/1 of it\n"),
        "a.mtl": MTL.replace("\n", " # as it was\n"),
    },
    "comments that end in a backslash": {
        "a.obj": "# C:\\models\\\n" + OBJ.replace("v 0.1", "g C:\\parts\\\nv 0.1"),
        "a.mtl": "# C:\\models\\\n" + MTL,
    },
    "lines that go on": {
        "a.obj": OBJ.replace("f 1/1 2/2", "f 1/1 \\\n2/2 \\ \n").replace("v 1.4 ", "v 1.4\\\r\n "),
        "a.mtl": MTL.replace("Kd 1.0 ", "Kd 1.0 \\\n"),
    },
    "no line at the end": {"a.obj": OBJ.rstrip() + " \\", "a.mtl": MTL.rstrip()},
    "several libraries": {
        "a.obj": untouched(OBJ, "a.mtl", "other.mtl a.mtl"),
        "other.mtl": "newmtl other\nKd 0 1 0\n",
    },
    "several libraries whose names have spaces": {
        "a.obj": untouched(OBJ, "a.mtl", "an other.MTL   my own.mtl"),
        "an other.mtl": "newmtl other\nKd 0 1 0\n",
        "my own.mtl": MTL,
    },
    "the first library of a line counts": {
        "a.obj": untouched(OBJ, "a.mtl", "a.mtl other.mtl"),
        "other.mtl": "newmtl skin\nKd 0 1 0\n",
    },
    "the last line of libraries counts": {
        "a.obj": "mtllib other.mtl\n" + OBJ,
        "other.mtl": "newmtl skin\nKd 0 1 0\n",
    },
    "a library in another case": {"a.obj": untouched(OBJ, "a.mtl", "A.MTL")},
    "a library on another computer": {"a.obj": untouched(OBJ, "a.mtl", "C:\\models\\a.mtl")},
    "a library in a folder": {"a.obj": untouched(OBJ, "a.mtl", ".\\mtl\\b.mtl"), "mtl/b.mtl": MTL},
    "a material in another case": {"a.obj": untouched(OBJ, "usemtl skin", "usemtl Skin")},
    "a name with a number sign": {
        "a.obj": untouched(OBJ, "usemtl skin", "usemtl Material  #25"),
        "a.mtl": "newmtl Material #24\nKd 0 0 0\n" + untouched(MTL, "skin", "Material #25"),
    },
    "a name and a comment": {"a.mtl": untouched(MTL, "skin", "skin # of the seat")},
    "colours of 0 to 255": {"a.mtl": "newmtl skin\nKd 255 127.5 63.75\n"},
    "other materials are broken": {"a.mtl": MTL + "newmtl unused\nmap_Kd gone.png\nKd x\n"},
    "opaque twice": {"a.mtl": MTL + "d 1.0 # all of it\nTr 1.0\n"},
    "opaque by no transparency": {"a.mtl": MTL + "Tr 0.0\n"},
    "opaque by the other transparency": {"a.mtl": MTL + "Tr 1.000000\n"},
    "what shading needs": {"a.mtl": MTL + "Ka 1 1 1\nKs 0 0 0\nNs 10\nillum 2\nmap_Bump gone.png\nKe 0 0 0\n"},
}


@pytest.mark.parametrize("name", PLAIN)
def test_every_way_to_say_it_says_the_same(name: str, tmp_path: Path) -> None:
    mesh = load(tmp_path, PLAIN[name])
    assert_close(mesh.corners, torch.tensor([CORNERS]))
    assert_close(mesh.uv, torch.tensor([[(u, 1 - v) for u, v in UV]]))
    assert_close(torch.tensor(skin(mesh).base_colour_linear[:3]), COLOUR)
    assert skin(mesh).base_colour_linear[3] == 1
    assert skin(mesh).alpha_mode == "OPAQUE"
    assert skin(mesh).texture is None


TEXTURED: dict[str, tuple[str, str]] = {
    "as it is": ("map_Kd red.png", "red.png"),
    "keyword in another case": ("MAP_KD red.png", "red.png"),
    "in another case": ("map_Kd Red.PNG", "red.png"),
    "and on the disk": ("map_Kd red.png", "RED.Png"),
    "a folder of Windows in another case": ("map_Kd Textures\\Red.png", "textures/red.PNG"),
    "a folder with a dot": ("map_Kd ./textures\\red.png", "textures/red.png"),
    "on another computer": ("map_Kd C:\\My Models\\textures\\red.png", "textures/red.png"),
    "on another computer, beside": ("map_Kd D:/models/red.png", "red.png"),
    "from the root": ("map_Kd /models/red.png", "red.png"),
    "one folder up": ("map_Kd ..\\textures\\red.png", "textures/red.png"),
    "with spaces": ("map_Kd  my  red.png", "my  red.png"),
    "with a comment": ("map_Kd red.png # the seat", "red.png"),
    "with a number sign": ("map_Kd red #2.png", "red #2.png"),
    "in quotes": ('map_Kd "my red.png"', "my red.png"),
    "with accents": ("map_Kd ro\u0308t.png", "r\u00f6t.png"),
    "a bitmap": ("map_Kd red.bmp", "red.bmp"),
    "a Targa": ("map_Kd red.TGA", "red.tga"),
    "a bitmap under another name": ("map_Kd red.jpg", "red.jpg"),
    "options that change nothing": (
        "map_Kd -s 1 1 1 -o 0 0 0 -t 0 0 0 -mm 0 1 -blendu on -imfchan r red.png",
        "red.png",
    ),
    "a number behind options": ("map_Kd -s 1 -o 0 0 7.png", "7.png"),
    "black times the texture": ("illum 4\nKd 0.00 0.00 0.00\nmap_Kd red.png", "red.png"),
    "black and the emission's": ("Kd 0 0 0\nmap_Ke red.png", "red.png"),
    "black and a white emission's": ("Kd 0 0 0\nKe 1 1 1\nmap_Ke red.png", "red.png"),
    "its own alpha": ("map_Kd red.png\nmap_d Red.PNG\n", "red.png"),
}


@pytest.mark.parametrize("name", TEXTURED)
def test_every_way_to_name_a_texture(name: str, tmp_path: Path) -> None:
    lines, path = TEXTURED[name]
    content = picture({".bmp": "BMP", ".tga": "TGA", ".jpg": "BMP"}.get(Path(path).suffix.lower(), "PNG"))
    mesh = load(tmp_path, {"a.mtl": f"newmtl skin\n{lines}\n", path: content})
    texture = skin(mesh).texture
    assert texture is not None
    assert texture[0, 0].tolist() == [*RED, 255]
    assert skin(mesh).base_colour_linear == (1, 1, 1, 1)
    assert_close(mesh.uv, torch.tensor([[(u, 1 - v) for u, v in UV]]))


def test_names_in_the_encoding_of_windows(tmp_path: Path) -> None:
    mtl = "newmtl skin\nmap_Kd r\u00f6t\u2026.png\n".encode("cp1252")
    assert skin(load(tmp_path, {"a.mtl": mtl, "r\u00f6t\u2026.png": picture()})).texture is not None


def test_options_scale_and_move_the_texture(tmp_path: Path) -> None:
    """As three.js and Blender do: first times the scale, then plus the offset, counted from below."""
    lines = "newmtl skin\nmap_Kd -s 2 3 1 -o 0.25 -0.5 0 -clamp on red.png\n"
    mesh = load(tmp_path, {"a.mtl": lines, "red.png": picture()})
    expected = [(2 * u + 0.25, 1 - (3 * v - 0.5)) for u, v in UV]
    assert_close(mesh.uv, torch.tensor([expected]))
    assert skin(mesh).wrap == ("clamp", "clamp")
    only_u = load(tmp_path, {"a.mtl": "newmtl skin\nmap_Kd -s 2 red.png\n"})
    assert_close(only_u.uv, torch.tensor([[(2 * u, 1 - v) for u, v in UV]]))
    assert skin(only_u).wrap == ("repeat", "repeat")


@pytest.mark.parametrize(
    ("materials", "alphas"),
    [
        (["d 0.25"], [0.25]),
        (["d -halo 0.25"], [0.25]),
        (["Tr 0.25"], [0.75]),
        (["Tr 0.25", "Tr 0"], [0.75, 1]),
        (["Tr 0.25", "Tr 1"], [0.25, 1]),  # as transparency it would hide the second
        (["Tr 0.25", "Tr 1", "Tr 0"], [0.75, 0, 1]),  # and as opacity the third
        (["Tr 1", "d 0.5"], [1, 0.5]),
        (["d 0.5\nTr 1"], [0.5]),
    ],
)
def test_transparency_is_the_opposite_of_d(materials: list[str], alphas: list[float], tmp_path: Path) -> None:
    mtl = "".join(f"newmtl m{index}\nKd 1 0 0\n{line}\n" for index, line in enumerate(materials))
    faces = "".join(f"usemtl m{index}\nf 1 2 3\n" for index in range(len(materials)))
    mesh = load(tmp_path, {"a.mtl": mtl, "a.obj": OBJ.partition("usemtl")[0] + faces})
    assert [material.base_colour_linear[3] for material in mesh.materials] == pytest.approx(alphas)
    assert [material.alpha_mode for material in mesh.materials] == ["OPAQUE" if a == 1 else "BLEND" for a in alphas]


def test_emission_in_place_of_black(tmp_path: Path) -> None:
    mesh = load(tmp_path, {"a.mtl": "newmtl skin\nKd 0 0 0\nKe 1.0 0.5 0.25\n"})
    assert_close(torch.tensor(skin(mesh).base_colour_linear[:3]), COLOUR)
    lit = load(tmp_path, {"a.mtl": MTL + "Ke 0 1 0\n"})
    assert_close(torch.tensor(skin(lit).base_colour_linear[:3]), COLOUR)
    for line in ("Ke 50 50 50", "Ke spectral x.rfl"):  # of a lamp, which its base colour does not depend on
        assert_close(torch.tensor(skin(load(tmp_path, {"a.mtl": f"{MTL}{line}\n"})).base_colour_linear[:3]), COLOUR)
    bright = load(tmp_path, {"a.mtl": "newmtl skin\nKd 0 0 0\nKe 9 0 0\n"})
    assert skin(bright).base_colour_linear == (1, 0, 0, 1)


def test_what_is_not_shown_is_told(tmp_path: Path) -> None:
    assert load(tmp_path, {}).notes == ()
    extra = "l 1 2\nvn 0 0 1\no box\ns off\nodd 1 2\nodd 3\n"
    mtl = "newmtl skin\nKd 0 0 0\nmap_Kd red.png\nTr 1\nNs 5\nmap_Bump b.png\nshiny yes\n"
    mesh = load(tmp_path, {"a.obj": OBJ + extra, "a.mtl": mtl, "red.png": picture()})
    assert mesh.notes == (
        "Kd 0 0 0 beside map_Kd: the texture is shown as it is, as viewers do",
        "Tr: read as opacity, since as transparency it would hide its materials",
        "lines and points are left out",
        "map_bump: no effect on the base colour",
        "ns: no effect on the base colour",
        "odd: not understood",
        "shiny: not understood",
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.obj": OBJ + "surf 0 1 0 1 1 2 3\n"}, "polygons and materials, got a line of 'surf'; convert it to GLB"),
        ({"a.obj": OBJ + "call b.obj\n"}, "got a line of 'call'"),
        ({"a.obj": OBJ + "usemap wood\n"}, "got a line of 'usemap'"),
        ({"a.obj": untouched(OBJ, "a.mtl", "a.mtl b.mtl")}, r"expected its materials in .*b\.mtl, got no such file"),
        ({"a.obj": untouched(OBJ, "usemtl skin", "usemtl bone")}, r"material 'bone' in its MTL files, got \['skin'\]"),
        (
            {"a.mtl": MTL + "newmtl Skin\nKd 0 0 0\n", "a.obj": untouched(OBJ, "usemtl skin", "usemtl SKIN")},
            "material 'SKIN' in its MTL files",
        ),
        (
            {"a.mtl": "newmtl skin\nmap_Kd RED.png\n", "red.png": picture(), "Red.png": picture(colour=(1, 2, 3))},
            "one file that is called 'RED.png' but for its case, got",
        ),
        (
            {"a.mtl": "newmtl skin\nmap_Kd red.png\nmap_d mask.png\n", "red.png": picture(), "mask.png": picture()},
            "expected map_d to be the alpha of map_Kd 'red.png', got 'mask.png'; convert it to GLB",
        ),
    ],
)
def test_what_cannot_be_shown_is_refused(files: dict[str, str | bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=message) as caught:
        load(tmp_path, files)
    assert "\n" not in str(caught.value)


def test_names_never_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "asset"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(picture())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "up").symlink_to(tmp_path)
    for name in ("../secret.png", "..\\secret.png", f"{tmp_path}/secret.png", "link.png", "LINK.png", "up/secret.png"):
        with pytest.raises(
            AssetError, match=r"expected (names of files inside its folder|one texture), got|one texture"
        ):
            load(folder, {"a.mtl": f"newmtl skin\nmap_Kd {name}\n"})
