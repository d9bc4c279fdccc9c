"""Pictures that a black material gives off as light: the unlit textures of many collected models."""

from pathlib import Path
from typing import Any

import pytest
import torch
from glb_writer import Glb, encoded, textured_square
from torch.testing import assert_close

from ouroboros3d.datamodules.meshes.glb import load_glb
from ouroboros3d.renderers.meshes import TexturedMesh

PICTURE = [[[255, 0, 0, 10], [0, 255, 0, 20]], [[0, 0, 255, 30], [9, 9, 9, 40]]]
BLACK = [[[0, 0, 0, 200], [1, 1, 1, 100]], [[0, 1, 0, 50], [0, 0, 0, 0]]]
NOTE = "a black base colour: the emission is shown in its place"


def load(glb: Glb, folder: Path) -> TexturedMesh:
    (folder / "asset.glb").write_bytes(glb.content())
    return load_glb(folder / "asset.glb")


def square(base: Any = None, factor: Any = (0, 0, 0, 1), emission: Any = PICTURE, **material: Any) -> Glb:
    """A square with a base colour and an emission; keyword arguments go into its material."""
    glb = textured_square()
    entry = glb.tree["materials"][glb.material(base, factor)] | {"emissiveFactor": [1, 1, 1]} | material
    if emission is not None:
        image = glb.add("images", {"bufferView": glb.view(encoded(emission)), "mimeType": "image/png"})
        entry["emissiveTexture"] = {"index": glb.add("textures", {"source": image})}
    glb.tree["materials"] = [entry]
    glb.tree["meshes"][0]["primitives"][0]["material"] = 0
    return glb


@pytest.mark.parametrize(("base", "factor"), [(None, (0, 0, 0, 1)), (BLACK, (1, 1, 1, 1)), (PICTURE, (0, 0, 0, 1))])
def test_the_picture_is_shown_in_place_of_black(base: Any, factor: Any, tmp_path: Path) -> None:
    glb = square(base, factor, emissiveFactor=[1, 0.5, 0.25])
    glb.tree["materials"][0]["emissiveTexture"]["texCoord"] = 1
    primitive = glb.tree["meshes"][0]["primitives"][0]
    primitive["attributes"]["TEXCOORD_1"] = glb.accessor([[0.5, 0], [0.5, 1], [1, 1], [1, 0]])
    primitive["attributes"]["COLOR_0"] = glb.accessor([[0.0, 0, 0, 1]] * 4)  # acts on the base colour alone
    mesh = load(glb, tmp_path)
    (material,) = mesh.materials
    assert material.texture is not None
    assert material.texture[..., :3].tolist() == [[pixel[:3] for pixel in row] for row in PICTURE]
    assert material.base_colour_linear == (1, 0.5, 0.25, 1)
    assert mesh.vertex_colours_linear is None
    assert mesh.uv[..., 0].min() == 0.5
    assert mesh.notes == (NOTE,)


def test_a_colour_is_shown_too(tmp_path: Path) -> None:
    strength = {"KHR_materials_emissive_strength": {"emissiveStrength": 2.0}}
    for base in (None, BLACK):
        mesh = load(square(base, emission=None, emissiveFactor=[0.25, 0, 0.75], extensions=strength), tmp_path)
        assert mesh.materials[0].base_colour_linear == (0.5, 0, 1, 1)
        assert mesh.materials[0].texture is None
        assert mesh.notes == (NOTE,)


@pytest.mark.parametrize(
    ("factor", "emissive"), [((0.2, 0, 0, 1), [1, 1, 1]), ((0, 0, 0, 1), [0, 0, 0]), ((0, 0, 0, 1), None)]
)
def test_other_base_colours_and_dark_emissions_stay(factor: Any, emissive: Any, tmp_path: Path) -> None:
    glb = square(factor=factor, emissiveFactor=emissive)
    if emissive is None:
        del glb.tree["materials"][0]["emissiveFactor"]  # glTF's default is no light
    mesh = load(glb, tmp_path)
    assert mesh.materials[0].base_colour_linear == factor
    assert mesh.materials[0].texture is None
    assert mesh.notes == ()


@pytest.mark.parametrize("mode", ["MASK", "BLEND"])
def test_alpha_stays_that_of_the_base_colour(mode: str, tmp_path: Path) -> None:
    factor = (0, 0, 0, 0.8)
    alone = load(square(factor=factor, alphaMode=mode), tmp_path).materials[0]
    assert alone.texture is not None
    assert (alone.texture[..., 3] == 255).all()
    assert alone.base_colour_linear == (1, 1, 1, 0.8)
    mesh = load(square(BLACK, factor, alphaMode=mode), tmp_path)
    texture = mesh.materials[0].texture
    assert texture is not None
    expected = torch.cat([torch.tensor(PICTURE)[..., :3], torch.tensor(BLACK)[..., 3:]], dim=-1)
    assert_close(texture.long(), expected)
    coloured = load(square(BLACK, factor, None, alphaMode=mode, emissiveFactor=[0.5, 0, 0]), tmp_path).materials[0]
    assert coloured.texture is not None
    assert_close(coloured.texture[..., 3].long(), torch.tensor(BLACK)[..., 3])
    assert coloured.base_colour_linear == (0.5, 0, 0, 0.8)
    other = square(BLACK, factor, PICTURE[:1], alphaMode=mode)
    assert load(other, tmp_path).notes == (
        "a black base colour: its emission and its alpha differ in layout; not shown",
    )
