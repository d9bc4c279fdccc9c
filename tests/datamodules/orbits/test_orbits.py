import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.orbits.writing import orbit_name, write_orbit
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.ouroboros3d import Ouroboros3DReader


def read_orbit(folder: Path) -> tuple[torch.Tensor, Cameras]:
    """Every view of the object whose first orbit this is."""
    found = Ouroboros3DReader(folder.parent).read(folder.name.removesuffix("-00"))
    return torch.stack([found.rgba(view) for view in range(len(found))]), found.cameras


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, torch.Tensor, OrbitRig]:
    rig = OrbitRig(image_size=9, orbits=2, views=5)
    rgba = torch.randint(0, 256, (5, 9, 9, 4), dtype=torch.uint8)
    rgba[..., 3] = rgba[..., 3].clamp(min=1)  # WebP keeps colours only where something is visible
    folder = tmp_path / orbit_name("thing", 0)
    details = {"object": {"uid": "thing", "sha256": "0"}}
    write_orbit(folder, rgba, rig.cameras("thing", 0), fov_deg=rig.fov_deg, details=details)
    return folder, rgba, rig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 0}, "image_size: expected at least 1, got 0"),
        ({"views": 0}, "views: expected at least 1, got 0"),
        ({"fov_deg": 0.69}, "fov_deg: expected degrees .* radians"),
        ({"elevation_deg": (30.0, -5.0)}, "elevation_deg"),
        ({"radius": 0.0}, "radius"),
        ({"light": 2.0}, "light"),
    ],
)
def test_impossible_rigs(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OrbitRig(**changes)


def test_round_trip_is_lossless(written: tuple[Path, torch.Tensor, OrbitRig]) -> None:
    folder, rgba, rig = written
    views, read = read_orbit(folder)
    assert torch.equal(views, rgba)
    cameras = rig.cameras("thing", 0)
    # float32 -> float64 text -> float32 through an orthonormal change of axes
    torch.testing.assert_close(read.c2w_opencv, cameras.c2w_opencv, atol=1e-6, rtol=0)
    torch.testing.assert_close(read.intrinsics_norm, cameras.intrinsics_norm, atol=1e-6, rtol=0)


def test_meta_is_what_the_official_loader_reads(written: tuple[Path, torch.Tensor, OrbitRig]) -> None:
    folder, _, rig = written
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["camera_angle_x"] == pytest.approx(math.radians(39.598))
    elevation = rig.elevations_deg("thing")[0]
    for view, location in enumerate(meta["locations"]):
        assert location["frames"][0]["name"] == f"render_{view:04d}.webp"
        assert location["index"] == f"{view:04d}"
        pose = np.array(location["transform_matrix"])
        # Blender: Z up, the camera looks along its own -z, so at the object from its position.
        assert pose[2, 3] == pytest.approx(1.7417 * math.sin(math.radians(elevation)), abs=1e-6)
        np.testing.assert_allclose(pose[:3, 2] * 1.7417, pose[:3, 3], atol=1e-6)
        assert location["elevation"] == pytest.approx(math.radians(elevation), abs=1e-6)
        # Z-up azimuth a (atan2(y, x)) is our azimuth minus 90 degrees; views turn the same way.
        assert location["azimuth"] == pytest.approx(math.atan2(pose[1, 3], pose[0, 3]), abs=1e-6)
    turns = np.diff(np.unwrap([location["azimuth"] for location in meta["locations"]]))
    np.testing.assert_allclose(turns, math.radians(72), atol=1e-6)


def test_an_orbit_that_is_there_is_kept(written: tuple[Path, torch.Tensor, OrbitRig]) -> None:
    folder, rgba, rig = written
    write_orbit(folder, 255 - rgba, rig.cameras("thing", 0), fov_deg=rig.fov_deg, details={})
    assert torch.equal(read_orbit(folder)[0], rgba)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_damage_is_named(written: tuple[Path, torch.Tensor, OrbitRig]) -> None:
    folder, _, _ = written
    view = folder / "render_0003.webp"
    content = view.read_bytes()
    view.write_bytes(content[:40])
    with pytest.raises(SampleError, match=r"thing: view 3: expected a readable image.*render_0003\.webp"):
        read_orbit(folder)
    Image.new("RGBA", (4, 9)).save(view, lossless=True)
    with pytest.raises(SampleError, match=r"thing: view 3: expected 9 x 9 pixels, got 9 x 4 .*render_0003\.webp"):
        read_orbit(folder)
    view.unlink()
    with pytest.raises(SampleError, match=r"render_0003\.webp"):
        read_orbit(folder)
    (folder / "meta.json").write_text("{}")
    with pytest.raises(SampleError, match="expected camera_angle_x"):
        read_orbit(folder)
    (folder / "meta.json").unlink()
    with pytest.raises(SampleError, match=r"thing: expected .*meta\.json, got No such file"):
        read_orbit(folder)


def test_elevations_cover_the_range_and_differ_between_objects() -> None:
    rig = OrbitRig(orbits=4)
    elevations = np.array([rig.elevations_deg(f"object{number}") for number in range(300)])
    parts = np.floor((np.sort(elevations, axis=1) + 5) / 35 * 4)
    assert (parts == [0, 1, 2, 3]).all()
    # Uniform over the range for every single orbit: mean 12.5, standard error 10.1 / sqrt(300) = 0.6.
    assert (np.abs(elevations.mean(axis=0) - 12.5) < 2).all()
    assert len({row.tobytes() for row in elevations}) == 300


def test_rig_is_a_function_of_uid_and_seed() -> None:
    assert torch.equal(OrbitRig().cameras("a", 2).c2w_opencv, OrbitRig().cameras("a", 2).c2w_opencv)
    assert not torch.equal(OrbitRig().cameras("a", 2).c2w_opencv, OrbitRig().cameras("b", 2).c2w_opencv)
    assert not torch.equal(OrbitRig().cameras("a", 2).c2w_opencv, OrbitRig(seed=1).cameras("a", 2).c2w_opencv)
    assert OrbitRig.from_dict(json.loads(json.dumps(OrbitRig(views=3).as_dict()))) == OrbitRig(views=3)
