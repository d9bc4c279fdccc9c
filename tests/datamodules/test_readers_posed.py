"""Every format of posed renders, written by independent code and read back down to pixels."""

import json
import shutil
from pathlib import Path

import numpy as np
import OpenEXR
import posed_writers as writers
import pytest
import torch
from posed_writers import ANY_RIG, BALLS, LAYOUTS, RIG, Written, draw
from torch.testing import assert_close

from ouroboros3d.cameras import check_rigid
from ouroboros3d.datamodules.readers.detection import READERS, open_tree
from ouroboros3d.datamodules.readers.errors import (
    MirroredPoses,
    NoTransparency,
    SampleError,
    TransposedPoses,
    WrongFieldOfView,
)
from ouroboros3d.datamodules.readers.posed import PosedObject, PosedReader
from ouroboros3d.datamodules.untrusted import MissingPackage

DEPTH = ["ours", "gobjaverse", "gobjaverse_tar", "instantmesh", "trellis", "syncdreamer_gso"]
NORMALS = ["ours", "bpy_renderer", "gobjaverse", "gobjaverse_tar", "instantmesh"]


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Written]]:
    """One object in every layout; tests must not write into them."""
    roots = {name: tmp_path_factory.mktemp(name) for name in LAYOUTS}
    return {name: (roots[name], write(roots[name], uid)) for name, (_, uid, write) in LAYOUTS.items()}


def opened(root: Path, **options: object) -> PosedReader:
    reader = open_tree(root, assume_rig=True, **options)
    assert isinstance(reader, PosedReader)
    return reader


def read(trees: dict[str, tuple[Path, Written]], layout: str) -> tuple[PosedObject, Written]:
    root, written = trees[layout]
    return opened(root).read(written.uid), written


def read_everything(root: Path, uid: str) -> None:
    found = opened(root).read(uid)
    for view in range(len(found)):
        found.rgba(view)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_recognised_as_itself_and_nothing_else(trees, layout: str) -> None:
    root, written = trees[layout]
    assert [name for name, reader in READERS.items() if reader.matches(root)] == [LAYOUTS[layout][0]]
    assert opened(root).uids == [written.uid]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cameras_and_pixels_are_those_that_were_written(trees, layout: str) -> None:
    found, written = read(trees, layout)
    check_rigid(found.cameras.c2w_opencv)
    expected = np.stack([camera.c2w for camera in written.poses])
    # Stored in float64, read into float32: half a unit in the last place of 2.2.
    assert_close(found.cameras.c2w_opencv.double(), torch.from_numpy(expected), atol=1e-6, rtol=0)
    lenses = [[[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1]] for lens in written.lenses]
    assert_close(found.cameras.intrinsics_norm.double(), torch.tensor(lenses).double(), atol=2e-6, rtol=0)
    for view, shot in enumerate(written.shots()):
        assert np.array_equal(found.rgba(view).numpy(), shot.rgba)


STORED = [layout for layout, (reader, *_) in LAYOUTS.items() if READERS[reader].stored_poses]


@pytest.mark.parametrize("layout", STORED)
def test_cameras_follow_the_convention_that_the_reader_states(
    trees, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that check-data looks for mistakes of: there is no other."""
    found, written = read(trees, layout)
    reader = opened(trees[layout][0])
    other = {"opengl": "opencv", "opencv": "opengl"}[reader.stored_poses.axes]
    monkeypatch.setattr(type(reader), "stored_poses", reader.stored_poses._replace(axes=other))
    turned = found.cameras.c2w_opencv @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    assert_close(reader.read(written.uid).cameras.c2w_opencv, turned, atol=1e-6, rtol=0)


def test_only_formats_without_files_of_poses_state_no_convention() -> None:
    posed = {name for name, reader in READERS.items() if issubclass(reader, PosedReader) and not reader.stored_poses}
    assert posed == {"objaverse_rendering", "syncdreamer_gso"}


def test_one_rig_is_one_rig_in_every_layout(trees) -> None:
    poses = {name: read(trees, name)[0].cameras.c2w_opencv[:6] for name in ANY_RIG}
    for name, found in poses.items():
        assert_close(found, poses["lgm"], atol=1e-6, rtol=0, msg=f"{name} differs from lgm")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_marker_projects_where_the_image_shows_it(trees, layout: str) -> None:
    found, _ = read(trees, layout)
    points = torch.tensor([centre for centre, _, _ in BALLS])
    height, width = found.size
    checked = 0
    for view in range(min(len(found), 16)):
        pixels = found.rgba(view).numpy()
        uv, depth = found.cameras[view].project(points)
        for ball, (_, radius, colour) in enumerate(BALLS):
            rows, columns = np.nonzero((pixels[..., :3] == colour).all(-1) & (pixels[..., 3] > 0))
            fx, fy = found.cameras.intrinsics_norm[view].diagonal()[:2]
            expected = 3.14 * (radius / depth[ball]) ** 2 * fx * width * fy * height
            if len(rows) < 0.95 * expected:  # partly behind another ball, or cut by the border
                continue
            centroid = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
            # Perspective shifts a ball's centroid outward, whole pixels blur it: 0.4 px is the worst seen; a flipped or
            # swapped axis is off by 5 px and more.
            assert np.abs(centroid - (uv[ball].numpy() * [width, height])).max() < 0.6
            checked += 1
    assert checked >= 8


@pytest.mark.parametrize("layout", DEPTH)
def test_depth_lifts_pixels_onto_the_surface(trees, layout: str) -> None:
    """In all views at once: the lifted points of every view lie on the same balls."""
    found, written = read(trees, layout)
    assert found.depth is not None
    tolerance = {"instantmesh": 0.007, "ours": 1e-4}.get(layout, 1e-4)  # half a step of the stored depth and its slope
    height, width = found.size
    v, u = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    for view in range(6):
        depth = found.depth(view)
        seen = depth > 0
        assert depth.shape == found.size
        assert (seen & (found.rgba(view)[..., 3] == 0)).sum() == 0
        assert seen.sum() > 0.5 * (found.rgba(view)[..., 3] > 0).sum()
        assert_close(depth[seen], torch.from_numpy(written.shots()[view].depth).float()[seen], atol=tolerance, rtol=0)
        points = found.cameras[view].unproject(torch.stack([u[seen], v[seen]], dim=-1), depth[seen])
        off = torch.stack([((points - torch.tensor(c)).norm(dim=-1) - r).abs() for c, r, _ in BALLS]).amin(0)
        assert off.max() < 2 * tolerance + 1e-5


@pytest.mark.parametrize("layout", NORMALS)
def test_normals_point_out_of_the_surface_at_the_camera(trees, layout: str) -> None:
    found, written = read(trees, layout)
    assert found.normals is not None
    for view in range(6):
        normals = found.normals(view)
        seen = normals.norm(dim=-1) > 0
        assert torch.equal(seen, found.rgba(view)[..., 3] > 0)
        assert_close(normals[seen].norm(dim=-1), torch.ones(int(seen.sum())), atol=2e-3, rtol=0)
        _, rays = found.cameras[view].rays(*found.size)
        facing = (rays.permute(1, 2, 0)[seen] * normals[seen]).sum(-1)
        assert (facing < 0.02).float().mean() > 0.99
        # Eight bits a channel: steps of 0.008 in each component.
        assert_close(normals, torch.from_numpy(written.shots()[view].normals).float(), atol=8e-3, rtol=0)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in ("objaverse_xl_zip", "gobjaverse_tar")])
@pytest.mark.parametrize("damage", ["missing", "truncated", "background baked in", "other size"])
def test_a_damaged_view_is_named(tmp_path: Path, trees, layout: str, damage: str) -> None:
    root, written = trees[layout]
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    names = ("render_0001.webp", "001.png", "00001.png")
    view = next(path for path in sorted(tmp_path.rglob("*")) if path.name in names)
    content = view.read_bytes()
    view.unlink()
    if damage == "truncated":
        view.write_bytes(content[: len(content) // 2])
    elif damage == "background baked in":
        view.write_bytes(writers.grey_png())
    elif damage == "other size":
        writers.save(view.with_suffix(".png"), np.zeros((7, 9, 4), np.uint8))
        view.with_suffix(".png").rename(view)
    with pytest.raises(SampleError, match=rf"(?s){written.uid}: view 1\b.*{view.name}") as caught:
        read_everything(tmp_path, written.uid)
    assert caught.type is (NoTransparency if damage == "background baked in" else SampleError)


def test_a_damaged_archive_is_named(tmp_path: Path, trees) -> None:
    for layout, pattern in (("objaverse_xl_zip", "*.zip"), ("gobjaverse_tar", "*.tar")):
        root, written = trees[layout]
        shutil.copytree(root, tmp_path / layout)
        archive = next((tmp_path / layout).rglob(pattern))
        archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
        with pytest.raises(SampleError, match=rf"{written.uid}: .*{archive.name}"):
            opened(tmp_path / layout).read(written.uid)


def test_a_missing_pose_is_named_and_never_the_last_one_repeated(tmp_path: Path, trees) -> None:
    for layout, name in (("lgm", "pose/099.txt"), ("zero123", "011.npy"), ("openlrm", "pose/031.npy")):
        root, written = trees[layout]
        shutil.copytree(root, tmp_path / layout)
        (tmp_path / layout / written.uid / name).unlink()
        with pytest.raises(SampleError, match=rf"{written.uid}: view \d+: expected \d+ views, got no .*{name}"):
            opened(tmp_path / layout).read(written.uid)


def test_fewer_views_than_the_format_promises_are_an_error_unless_asked_for(tmp_path: Path, trees) -> None:
    root, written = trees["zero123"]
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    for view in range(9, 12):
        for ending in ("png", "npy"):
            (tmp_path / written.uid / f"{view:03d}.{ending}").unlink()
    with pytest.raises(SampleError, match=r"view 9: expected 12 views, got no .*views_per_object"):
        opened(tmp_path).read(written.uid)
    assert len(opened(tmp_path, views_per_object=9).read(written.uid)) == 9


def test_ambiguous_and_unknown_roots(tmp_path: Path, trees) -> None:
    for layout in ("lgm", "zero123"):
        shutil.copytree(trees[layout][0] / "thing", tmp_path / "both" / layout)
    with pytest.raises(ValueError, match=r"expected one format in .*, got signs of zero123 and lgm; say which"):
        open_tree(tmp_path / "both")
    assert opened(tmp_path / "both", reader="lgm").name == "lgm"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"expected a known format .* found none; .*looked for obj.*lgm: <uid>/rgb"):
        open_tree(tmp_path / "empty")
    with pytest.raises(ValueError, match="does not exist"):
        open_tree(tmp_path / "nowhere")
    root = trees["lgm"][0]
    with pytest.raises(ValueError, match=f"did you mean {root}"):
        open_tree(root / "thing")


def test_detection_looks_at_a_few_entries_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree of a hundred thousand objects opens as fast as a small one."""
    writers.zero123(tmp_path, "0000")
    for number in range(1, 400):
        (tmp_path / f"{number:04d}").mkdir()
    shutil.copytree(tmp_path / "0000", tmp_path / "0001", dirs_exist_ok=True)
    looked_at = []
    is_file = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: looked_at.append(path) or is_file(path))
    [reader.matches(tmp_path) for reader in READERS.values()]
    assert len(looked_at) < 2000


def meta_of(root: Path, uid: str = "thing") -> Path:
    return root / uid / "meta.json"


def changed(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_angles_in_degrees_are_refused(tmp_path: Path) -> None:
    for angle, uid in ((39.6, "degrees"), (0.01, "tiny")):
        writers.official(tmp_path, uid)
        changed(meta_of(tmp_path, uid), camera_angle_x=angle)
        with pytest.raises(WrongFieldOfView, match=f"{uid}: expected a field of view of 1 to 179 degrees in radians"):
            opened(tmp_path).read(uid)


def test_transposed_mirrored_and_scaled_poses_are_refused(tmp_path: Path) -> None:
    writers.official(tmp_path, "thing")
    meta = json.loads(meta_of(tmp_path).read_text())
    matrices = np.array([location["transform_matrix"] for location in meta["locations"]])
    mistakes = [
        (TransposedPoses, "last row", matrices.swapaxes(1, 2)),
        (MirroredPoses, "rigid .*det -", matrices * [[-1.0], [1.0], [1.0], [1.0]]),
        (SampleError, "rigid", matrices * [2.0, 2.0, 2.0, 1.0]),
        (SampleError, "expected poses", matrices[:, :2]),
    ]
    for kind, message, mistake in mistakes:
        for location, matrix in zip(meta["locations"], mistake, strict=True):
            location["transform_matrix"] = matrix.tolist()
        meta_of(tmp_path).write_text(json.dumps(meta))
        with pytest.raises(SampleError, match=f"thing: .*{message}") as caught:
            opened(tmp_path).read("thing")
        assert caught.type is kind


def test_epidiff_has_six_rings_of_sixteen(tmp_path: Path) -> None:
    elevations = (-10, 0, 10, 20, 30, 40)
    rings = [[writers.pose(22.5 * view, elevation, 1.5) for view in range(16)] for elevation in elevations]
    written = writers.epidiff(tmp_path, "thing", tuple(camera for ring in rings for camera in ring))
    found = opened(tmp_path).read(written.uid)
    assert found.rings == tuple(tuple(range(16 * ring, 16 * ring + 16)) for ring in range(6))


def test_official_lists_name_the_objects_and_split_nothing(tmp_path: Path) -> None:
    for uid in ("first", "second", "third"):
        writers.official(tmp_path, uid, RIG[:1])
    (tmp_path / "train.txt").write_text("first\nthird\n")
    reader = opened(tmp_path)
    assert reader.uids == ["first", "third"]
    assert reader.listed_splits() == {}
    (tmp_path / "val.txt").write_text("second\n")
    reader = opened(tmp_path)
    assert reader.uids == ["first", "second", "third"]
    assert reader.listed_splits() == {"first": "train", "second": "val", "third": "train"}
    (tmp_path / "test.txt").write_text("third\n")
    with pytest.raises(ValueError, match="without common objects, got third"):
        opened(tmp_path).listed_splits()


def test_orbits_of_one_object_are_one_object(trees) -> None:
    found, written = read(trees, "ours")
    assert found.rings == ((0, 1, 2), (3, 4, 5))
    assert len(found) == len(written.poses)


def test_a_missing_orbit_of_a_rendered_cache_is_named(tmp_path: Path) -> None:
    writers.ours(tmp_path, "thing")
    (tmp_path / "render_config.json").write_text(json.dumps({"rig": {"orbits": 2}}))
    shutil.rmtree(tmp_path / "thing-01")
    with pytest.raises(SampleError, match=r"thing: expected .*thing-01"):
        opened(tmp_path).read("thing")


def test_views_lead_nowhere_else(tmp_path: Path) -> None:
    writers.official(tmp_path, "thing")
    meta = json.loads(meta_of(tmp_path).read_text())
    meta["locations"][0]["frames"][0]["name"] = "../../secret.png"
    meta_of(tmp_path).write_text(json.dumps(meta))
    with pytest.raises(SampleError, match="files inside"):
        opened(tmp_path).read("thing")
    (tmp_path / "train.txt").write_text("../outside\n/etc\n")
    assert opened(tmp_path).uids == ["etc", "outside"]  # names in this tree, whatever stood before them


def test_zero123_validates_on_the_end_of_its_list(tmp_path: Path) -> None:
    writers.zero123(tmp_path, "thing")
    listed = [f"object{number:03d}" for number in range(300)]
    (tmp_path / "valid_paths.json").write_text(json.dumps(listed))
    reader = opened(tmp_path)
    assert reader.uids == listed
    assert reader.listed_splits() == dict.fromkeys(listed[297:], "val")
    assert opened(tmp_path).absent() == set(listed)  # one look tells: none of them is there
    (tmp_path / "valid_paths.json").write_text(json.dumps(["thing", "away"]))
    assert opened(tmp_path).absent() == {"away"}
    (tmp_path / "valid_paths.json").unlink()
    assert opened(tmp_path).absent() == frozenset()
    (tmp_path / "valid_paths.json").write_text(json.dumps(["../outside"]))
    with pytest.raises(ValueError, match="can name a file"):
        _ = opened(tmp_path).uids


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"missing_textures": {"count": 2}}, "expected every texture, got 2 missing"),
        ({"animation_count": 1}, "expected no animation, got 1"),
    ],
)
def test_objaverse_xl_renders_that_show_another_object_are_refused(tmp_path: Path, metadata, message: str) -> None:
    writers.objaverse_xl(tmp_path, "thing", **metadata)
    with pytest.raises(SampleError, match=f"thing: {message}"):
        opened(tmp_path).read("thing")


def test_gobjaverse_rings_rims_and_noise(tmp_path: Path, trees) -> None:
    root, written = trees["gobjaverse"]
    found, _ = read(trees, "gobjaverse")
    assert [len(ring) for ring in found.rings] == [24, 12]
    assert not {24, 25, 26, 39} & {view for ring in found.rings for view in ring}
    shot = draw(written.poses[0], written.lenses[0])
    valid = shot.depth > 0
    padded = np.pad(valid, 1, mode="edge")
    inner = valid & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    assert np.array_equal(found.depth(0).numpy() > 0, inner)
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    noisy = shot.depth.copy()
    noisy[10:20, 20:30] = 0.4  # before the unit cube
    channels = {name: np.full(shot.depth.shape, np.nan, np.float32) for name in "RGB"}
    path = tmp_path / "0/10005/00000/00000_nd.exr"
    OpenEXR.File({}, {**channels, "A": noisy.astype(np.float32)}).write(str(path))
    found = opened(tmp_path).read(written.uid)
    assert (found.depth(0)[10:20, 20:30] == 0).all()
    assert (found.normals(0) == 0).all()
    assert found.normals(0).isfinite().all()
    path.write_bytes(b"no image")
    with pytest.raises(SampleError, match=r"0_10005: view 0: expected a readable EXR image.*00000_nd\.exr"):
        found.depth(0)


def test_gobjaverse_without_angles_has_the_focal_length_of_the_data_set(tmp_path: Path) -> None:
    written = writers.gobjaverse(tmp_path, "0_1")
    for path in tmp_path.rglob("*.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({key: content[key] for key in ("x", "y", "z", "origin")}))
    matrix = opened(tmp_path).read(written.uid).cameras.intrinsics_norm[0]
    assert_close(matrix[0, 0].item(), 1.38889, atol=1e-6, rtol=0)
    assert_close(matrix[1, 1].item(), 1.38889 * 64 / 48, atol=1e-5, rtol=0)
    assert opened(tmp_path).select_uids(uids=["0/1"]) == ["0_1"]


def test_exr_without_its_library_says_what_to_install(trees, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = read(trees, "gobjaverse")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"OpenEXR is not installed; run `pip install ouroboros3d\[exr\]`"):
        found.depth(0)


@pytest.mark.parametrize("error", [KeyError("A"), ValueError("too few values")])
def test_whatever_a_reader_of_maps_raises_is_an_error_of_the_object(
    trees, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("ouroboros3d.datamodules.readers.gobjaverse._map", broken)
    found, _ = read(trees, "gobjaverse")
    for maps in (found.depth, found.normals):
        with pytest.raises(SampleError, match=f"view 2: expected (depth|normals) with .*got {type(error).__name__}"):
            maps(2)


def test_lgm_has_one_ring_of_near_horizontal_views(trees) -> None:
    found, _ = read(trees, "lgm")
    assert found.rings == (tuple(range(36, 73)),)


def test_orthographic_renders_are_refused(tmp_path: Path) -> None:
    writers.bpy_renderer(tmp_path, "thing")
    meta = json.loads(meta_of(tmp_path).read_text())
    meta["locations"][2]["projection_type"] = "ORTHO"
    meta_of(tmp_path).write_text(json.dumps(meta))
    with pytest.raises(SampleError, match="thing: expected perspective views, got projection_type ORTHO"):
        opened(tmp_path).read("thing")


def test_bpy_renderer_angles_come_from_the_matrix_and_each_view_has_its_own_lens(trees) -> None:
    found, _ = read(trees, "bpy_renderer")  # the writer stores a wrong azimuth with every view
    assert len(set(found.cameras.intrinsics_norm[:, 0, 0].tolist())) == 6


def test_openlrm_intrinsics_of_another_size_are_refused(tmp_path: Path) -> None:
    writers.openlrm(tmp_path, "thing")
    path = tmp_path / "thing/intrinsics.npy"
    np.save(path, np.load(path) * [[1, 1], [1, 1], [2, 2]])
    with pytest.raises(SampleError, match=r"thing: expected rows .*\[64 48\]"):
        opened(tmp_path).read("thing")


def test_instantmesh_lists_and_views_without_poses(tmp_path: Path) -> None:
    writers.instantmesh(tmp_path, "thing")
    (tmp_path / "rendering_random_32views/broken").mkdir()
    (tmp_path / "filtered_obj_name.json").write_text(json.dumps({"good_objs": ["thing"]}))
    assert opened(tmp_path).uids == ["thing"]
    assert opened(tmp_path / "rendering_random_32views").read("thing").cameras.shape == (32,)
    (tmp_path / "rendering_random_32views").rename(tmp_path / "rendering_zero123plus")
    with pytest.raises(ValueError, match="rendering_zero123plus/ alone, whose views have no stored poses"):
        _ = opened(tmp_path).uids


def test_trellis_lists_and_both_of_its_folders(tmp_path: Path) -> None:
    writers.trellis(tmp_path, "aa")
    writers.trellis(tmp_path, "bb")
    writers.trellis(tmp_path, "aa", RIG[:2], place="renders_cond")
    assert opened(tmp_path).uids == ["aa", "bb"]
    assert len(opened(tmp_path).read("aa")) == 6
    assert len(opened(tmp_path / "renders_cond").read("aa")) == 2
    (tmp_path / "metadata.csv").write_text("sha256,rendered\naa,False\nbb,True\n")
    assert opened(tmp_path).uids == ["bb"]
    (tmp_path / "metadata.csv").write_text("name\nbb\n")
    with pytest.raises(ValueError, match="expected a column sha256"):
        _ = opened(tmp_path).uids


def test_trellis_without_depth_has_none(tmp_path: Path) -> None:
    writers.trellis(tmp_path, "aa")
    content = json.loads((tmp_path / "renders/aa/transforms.json").read_text())
    for frame in content["frames"]:
        del frame["depth"]
    (tmp_path / "renders/aa/transforms.json").write_text(json.dumps(content))
    assert opened(tmp_path).read("aa").depth is None


def test_renders_without_cameras_need_the_users_word(tmp_path: Path) -> None:
    writers.objaverse_rendering(tmp_path, "thing")
    with pytest.raises(ValueError, match=r"expected cameras with the views .*set assume_rig"):
        open_tree(tmp_path)
    azimuth = torch.tensor([120.0, 150.0])  # 30 degrees a view from 90 on
    centres = opened(tmp_path).read("thing").cameras.centres[1:3]
    assert_close(torch.rad2deg(torch.atan2(centres[:, 0], centres[:, 2])), azimuth)
    assert_close(centres[:, 1], torch.tensor([0.75, 0.75]))
