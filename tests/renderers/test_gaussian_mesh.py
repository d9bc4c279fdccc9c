"""Meshes of Gaussians against the shape and the colours of these, and their files against two readers."""

import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trimesh
from seen_from_all_sides import CENTRE, RADIUS, two_coloured_ball
from torch.testing import assert_close

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.meshes.glb import load_glb
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.renderers.gaussian_mesh import MeshSettings, mesh_of_gaussians, watertightness
from ouroboros3d.renderers.gaussians import GaussianRenderer
from ouroboros3d.renderers.glb_writer import save_glb
from ouroboros3d.renderers.meshes import MeshRenderer, TexturedMesh

SMALL = MeshSettings(resolution=48, faces=2000, texture_size=128, view_size=96)
BALL = two_coloured_ball()


@pytest.fixture(scope="module")
def ball() -> TexturedMesh:
    return mesh_of_gaussians(BALL, GaussianRenderer(), SMALL)


@pytest.fixture(scope="module")
def file(ball: TexturedMesh, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("meshes") / "ball.glb"
    save_glb(ball, path, {"frame": "object"})
    return path


def test_a_sphere_of_gaussians_is_a_closed_sphere(ball: TexturedMesh):
    assert watertightness(ball) == "watertight"
    assert 0.95 * 2000 <= len(ball.faces) <= 2000
    radii = (ball.vertices - CENTRE).norm(dim=1)
    assert radii.mean().item() == pytest.approx(RADIUS, abs=0.025), "a disc's own size"
    assert radii.std() < 0.006, "a quarter of a grid step"
    volume = trimesh.Trimesh(ball.vertices.numpy(), ball.faces.numpy(), process=False).volume
    assert volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.15)


def test_texels_have_the_colours_that_are_seen_there(ball: TexturedMesh):
    texture = ball.materials[0].texture
    assert texture is not None
    centres, places = ball.corners.mean(dim=1), (ball.uv.mean(dim=1) * 128).long()
    colours = texture[places[:, 1], places[:, 0], :3] / 255
    above, below = centres[:, 1] > CENTRE[1] + 0.1, centres[:, 1] < CENTRE[1] - 0.1
    for there, colour in ((above, BALL.colours[0, 0]), (below, BALL.colours[0, -1])):
        assert there.sum() > 100
        assert (colours[there] - colour).abs().mean() < 0.02


def test_a_mesh_looks_like_its_gaussians(file: Path):
    """Through the file and the reader of GLB files, from a camera that was not among the 26."""
    camera = Cameras.orbit([30.0], 20.0, 1.7417, 39.598)
    seen = GaussianRenderer()(BALL, camera.reshape(1, 1), 64, 64)
    meshed = MeshRenderer(supersampling=2)(load_glb(file), camera, 64, 64)
    both = ((seen.alpha > 0.95) & (meshed.alpha > 0.95)).expand(1, 1, 3, 64, 64)
    error = (seen.colour - meshed.colour)[both].square().mean()
    assert -10 * error.log10() > 25, "dB; the two colours meet in another pixel at most"
    overlap = ((seen.alpha > 0.5) & (meshed.alpha > 0.5)).sum() / ((seen.alpha > 0.5) | (meshed.alpha > 0.5)).sum()
    assert overlap > 0.88, "a disc's own size around"


def test_a_file_says_what_viewers_need(ball: TexturedMesh, file: Path):
    content = file.read_bytes()
    head = json.loads(content[20 : 20 + struct.unpack_from("<I", content, 12)[0]])
    (material,) = head["materials"]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0
    assert material["pbrMetallicRoughness"]["roughnessFactor"] == 1
    assert material["doubleSided"]
    assert "NORMAL" in head["meshes"][0]["primitives"][0]["attributes"]
    assert "object" in content[20:].decode("latin1")
    read = load_glb(file)
    assert len(read.faces) == len(ball.faces)
    assert read.materials[0].texture is not None
    assert_close(read.materials[0].texture, ball.materials[0].texture)
    other = trimesh.load(file, force="mesh", process=False)
    outward = (other.vertex_normals * (other.vertices - CENTRE.numpy())).sum(axis=1)
    assert (outward > 0.8 * RADIUS).mean() > 0.8, "smooth normals, but where simplification left a thin face"
    other.merge_vertices(merge_tex=True, merge_norm=True)
    assert other.is_watertight
    assert other.volume == pytest.approx(trimesh.Trimesh(ball.vertices, ball.faces).volume, rel=1e-5)


def test_two_runs_write_the_same_bytes(ball: TexturedMesh, file: Path, tmp_path: Path):
    save_glb(mesh_of_gaussians(BALL, GaussianRenderer(), SMALL), tmp_path / "again.glb", {"frame": "object"})
    assert (tmp_path / "again.glb").read_bytes() == file.read_bytes()


def test_nothing_to_see_is_refused():
    nothing = Gaussians(BALL.means, BALL.scales, BALL.quaternions, 0 * BALL.opacities, BALL.colours)
    with pytest.raises(ValueError, match="gaussians: expected a surface, got none"):
        mesh_of_gaussians(nothing, GaussianRenderer(), SMALL)
    with pytest.raises(ValueError, match="expected one object, got 2"):
        mesh_of_gaussians(Gaussians.cat([BALL, BALL]), GaussianRenderer(), SMALL)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="faces: expected 100 to 1000000, got 3"):
        MeshSettings(faces=3)


def test_it_is_told_what_is_not_watertight(ball: TexturedMesh):
    assert watertightness(replace(ball, faces=ball.faces[1:])) == "open at 3 edges"
    again = torch.cat([ball.faces, ball.faces[:1], ball.faces[:1].flip(1)])
    assert watertightness(replace(ball, faces=again)) == "closed, with 3 edges of more than two faces"
