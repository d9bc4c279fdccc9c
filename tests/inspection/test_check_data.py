"""`check-data` as a user meets it: right data pass, spoilt images are found, and the report stands alone."""

import errno
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checked import check, titles
from PIL import Image
from planted import OPENGL, Posed, write_official, write_zero123

from ouroboros3d.datamodules.left_out import Ledger, LeftOut
from ouroboros3d.datamodules.objaverse import ObjaverseDataModule
from ouroboros3d.datamodules.readers.ouroboros3d import Ouroboros3DReader
from ouroboros3d.datamodules.readers.posed import PosedObject
from ouroboros3d.datamodules.verdicts import read_verdict
from ouroboros3d.files import default_cache_dir
from ouroboros3d.inspection.images import inspect_views


@pytest.mark.parametrize("write", [write_official, write_zero123])
def test_right_data_pass_in_every_format(
    odd: list[Posed], tmp_path: Path, capsys: pytest.CaptureFixture[str], write: type
) -> None:
    objects = [Posed(p.uid, np.concatenate([p.rgba, p.rgba[:4]]), p.cameras[[*range(8), *range(4)]]) for p in odd[:2]]
    write(tmp_path / "tree", objects)  # type: ignore[call-arg]
    assert check(tmp_path / "tree", "--out", tmp_path / "out") == 0
    assert titles(tmp_path / "out") == []
    assert (tmp_path / "out/skip_uids.txt").read_text() == ""
    assert "No error found." in capsys.readouterr().out


def test_the_report_names_the_convention_and_loads_nothing(
    odd: list[Posed], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_official(tmp_path / "tree", odd[1:3], lambda c2w: c2w @ OPENGL)
    assert check(tmp_path / "tree", "--out", tmp_path / "out") == 1
    assert titles(tmp_path / "out") == ["These look like camera-to-world poses with OpenCV camera axes in a Z-up world"]
    page = (tmp_path / "out/report.html").read_text()
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)  # a plot draws its marks by their ids
    assert page.count("as they would fit of") == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "Do not train on this yet: these look like camera-to-world poses with OpenCV camera axes" in said


def spoil(tree: Path, uids: list[str]) -> None:
    """One mistake an object: a missing view, a damaged one, an empty one, one that the border cuts, a copy."""
    missing, damaged, empty, cut, copied = uids
    (tree / missing / "render_0003.webp").unlink()
    (tree / damaged / "render_0002.webp").write_bytes(b"RIFF")
    Image.new("RGBA", (64, 64)).save(tree / empty / "render_0001.webp", lossless=True)
    pixels = np.asarray(Image.open(tree / cut / "render_0005.webp").convert("RGBA"))
    moved = np.roll(pixels, 24, axis=1)
    Image.fromarray(moved).save(tree / cut / "render_0005.webp", lossless=True)
    shutil.copytree(tree / copied, tree / "zz_copy")


def test_every_spoilt_object_is_named_and_skipped_by_training(odd: list[Posed], tmp_path: Path) -> None:
    tree, out = write_official(tmp_path / "tree", odd), tmp_path / "out"
    missing, damaged, empty, cut, copied = uids = [posed.uid for posed in odd]
    spoil(tree, uids)
    assert check(tree, "--out", out, "--objects", 1) == 1
    assert set(titles(out)) >= {
        "Missing or unreadable views",
        "Empty views",
        "The image border cuts the object",
        "Duplicate objects",
    }
    page = (out / "report.html").read_text()
    assert f"{missing}: view 3" in page
    assert "render_0003.webp" in page
    verdict = read_verdict(Ouroboros3DReader(tree), default_cache_dir())
    assert verdict is not None
    assert verdict.errors == ()
    listed = Ledger.of(Ouroboros3DReader(tree), default_cache_dir()).read()
    assert {uid: one.found_by for uid, one in listed.items()} == {
        missing: "read",
        damaged: "read",
    }  # no empty view, no copy
    assert "Train only without the objects of skip_uids.txt: missing or unreadable views." in page
    skipped = dict(line.split("\t") for line in (out / "skip_uids.txt").read_text().splitlines())
    assert set(skipped) == {missing, damaged, empty, "zz_copy"}
    assert copied in skipped["zz_copy"]
    data = ObjaverseDataModule(root=tree, skip_uids=out / "skip_uids.txt", num_views=4)
    assert {uid for chosen in data.objects().values() for uid in chosen} == {cut, copied}


def test_objects_of_several_empty_views_are_broken(odd: list[Posed], tmp_path: Path) -> None:
    tree = write_official(tmp_path / "tree", odd[:3])
    for uid, views in ((odd[0].uid, (1, 4)), (odd[1].uid, (2,))):
        for view in views:
            Image.new("RGBA", (64, 64)).save(tree / uid / f"render_{view:04d}.webp", lossless=True)
    assert check(tree, "--out", tmp_path / "out", "--objects", 1, "--workers", 1) == 1
    ledger = Ledger.of(Ouroboros3DReader(tree), default_cache_dir())
    assert ledger.read() == {odd[0].uid: LeftOut("check", "views 1, 4 showing nothing", ledger.path)}
    skipped = f"{odd[0].uid}\tviews 1, 4 showing nothing\n{odd[1].uid}\tview 2 showing nothing\n"
    assert sorted((tmp_path / "out/skip_uids.txt").read_text().splitlines()) == sorted(skipped.splitlines())


def refuse() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        (refuse, "expected views that can be read here, got [Errno 5] Input/output error."),
        (die, "the process that read it ended: SIGKILL."),
    ],
)
def test_an_object_that_cannot_be_read_here_is_named_and_the_others_are_checked(
    odd: list[Posed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None], reason: str
) -> None:
    tree, rgba = write_official(tmp_path / "tree", odd[:3]), PosedObject.rgba

    def failing(found: PosedObject, view: int) -> torch.Tensor:
        if (found.uid, view) == (odd[1].uid, 2):
            happens()
        return rgba(found, view)

    monkeypatch.setattr(PosedObject, "rgba", failing)
    assert check(tree, "--out", tmp_path / "out", "--objects", 1, "--workers", 1) == 1
    assert titles(tmp_path / "out") == ["Objects cannot be read"]
    assert (tmp_path / "out/skip_uids.txt").read_text() == f"{odd[1].uid}\t{odd[1].uid}: {reason}\n"


def test_trees_of_one_name_do_not_share_their_files(
    odd: list[Posed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lists = set()
    for name in ("a", "b"):
        tree = write_official(tmp_path / name / "renders", odd[:1])
        assert check(tree, "--workers", 1) == 0
        verdict = read_verdict(Ouroboros3DReader(tree), default_cache_dir())
        assert verdict is not None
        lists.add(verdict.report)
    assert lists == {str(path) for path in tmp_path.glob("check-data/renders-*/report.html")}
    assert len(lists) == 2


def test_the_report_is_the_same_with_any_number_of_processes(odd: list[Posed], tmp_path: Path) -> None:
    tree = write_official(tmp_path / "tree", odd[:3])
    (tree / odd[0].uid / "render_0003.webp").unlink()
    pages = []
    for workers in (1, 3):
        assert check(tree, "--out", tmp_path / "out", "--workers", workers) == 1
        pages.append((tmp_path / "out/report.html").read_text())
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    ("paint", "title"),
    [
        ("black", "A black background is baked in"),
        ("white", "A white background is baked in"),
        ("premultiplied", "A black background is mixed into the edges"),
        ("matted", "A white background is mixed into the edges"),
    ],
)
def test_a_background_that_is_baked_in_is_named(odd: list[Posed], tmp_path: Path, paint: str, title: str) -> None:
    def painted(rgba: np.ndarray) -> np.ndarray:
        alpha, paper = rgba[..., 3:] / 255, 255 * (paint in ("white", "matted"))
        colour = (rgba[..., :3] * alpha + paper * (1 - alpha)).round()
        kept = rgba[..., 3:] if paint in ("premultiplied", "matted") else np.full_like(rgba[..., 3:], 255)
        return np.concatenate([colour.astype(np.uint8), kept], axis=-1)

    write_official(tmp_path / "tree", [Posed(p.uid, painted(p.rgba), p.cameras) for p in odd[:2]])
    assert check(tmp_path / "tree", "--out", tmp_path / "out", "--objects", 1) == 1
    assert title in titles(tmp_path / "out")


def test_straight_alpha_is_not_taken_for_mixed(odd: list[Posed], even: list[Posed], tmp_path: Path) -> None:
    reader = Ouroboros3DReader(write_official(tmp_path / "tree", [*odd, *even]))
    assert [inspect_views(reader, uid)[0].mixed for uid in reader.uids] == [""] * 10


@pytest.mark.parametrize(
    ("spoiler", "title"),
    [
        (lambda c2w: c2w @ np.diag([-1, 1, 1, 1.0]), "Poses mirror: an axis is flipped"),
        (lambda c2w: c2w.transpose(0, 2, 1), "Poses are stored transposed"),
        (lambda c2w: c2w * (np.arange(4) < 3) + np.diag([0, 0, 0, 1]), "Cameras stand in the object's centre"),
    ],
)
def test_matrices_that_are_no_poses_are_named(odd: list[Posed], tmp_path: Path, spoiler: type, title: str) -> None:
    write_official(tmp_path / "tree", odd[:2], spoiler)
    assert check(tmp_path / "tree", "--out", tmp_path / "out") == 1
    assert title in titles(tmp_path / "out")


def test_degrees_for_radians_are_named(odd: list[Posed], tmp_path: Path) -> None:
    write_official(tmp_path / "tree", odd[:1], angle=np.degrees)
    assert check(tmp_path / "tree", "--out", tmp_path / "out") == 1
    assert titles(tmp_path / "out") == ["Fields of view are no angles in radians"]


def test_a_tree_of_meshes_is_counted_and_broken_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ouroboros3d.datamodules.selection import BUNDLED

    (tmp_path / "meshes").mkdir()
    (source,) = BUNDLED.glob("glbs/*/1ca722*.glb")
    shutil.copy(source, tmp_path / "meshes/horse.glb")
    (tmp_path / "meshes/broken.glb").write_bytes(b"glTF")
    assert check(tmp_path / "meshes", "--out", tmp_path / "out", "--workers", 1, "--cache_dir", tmp_path / "cache") == 1
    assert titles(tmp_path / "out") == ["Meshes cannot be rendered"]
    assert (tmp_path / "out/skip_uids.txt").read_text().startswith("broken\tload: ")
    assert not list((tmp_path / "cache").iterdir())  # fit asks for no verdict on meshes
    assert "verdict:" not in capsys.readouterr().out


def test_doubtful_meshes_are_told_and_left_out_where_they_are_few(tmp_path: Path) -> None:
    white = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 3 4\n"
    coloured = white.replace("\n", " 0.2 0.4 0.6\n", 4)
    (tmp_path / "meshes").mkdir()
    for name, content in {"a": coloured + "l 1 2\n", "b": white, "c": coloured}.items():
        (tmp_path / f"meshes/{name}.obj").write_text(content)
    arguments = [tmp_path / "meshes", "--out", tmp_path / "out", "--workers", 1, "--cache_dir", tmp_path / "cache"]
    assert check(*arguments) == 0
    assert titles(tmp_path / "out") == ["Objects come out as a speck or in one extreme colour"]
    reason = "all of one extreme colour, rgb(255, 255, 255)"
    assert (tmp_path / "out/skip_uids.txt").read_text() == f"b\t{reason}\n"
    page = (tmp_path / "out/report.html").read_text()
    assert f"b: {reason}" in page
    assert "1 of 3 objects: lines and points are left out" in page
    for name in "ac":
        (tmp_path / f"meshes/{name}.obj").write_text(white)
    assert check(*arguments) == 0
    assert (tmp_path / "out/skip_uids.txt").read_text() == ""  # what all are like is no mistake of one


def test_wrong_use_gets_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([tmp_path / "nowhere"], [], [tmp_path, "--objects", 0], [tmp_path, "--reader", "none"]):
        assert check(*arguments) == 2
        assert capsys.readouterr().err.count("ouroboros3d: error: ") == 1
    assert not list(tmp_path.iterdir())


def test_uids_and_messages_are_text_in_the_report(odd: list[Posed], tmp_path: Path) -> None:
    named = Posed("<b>bold", odd[0].rgba, odd[0].cameras)
    tree = write_official(tmp_path / "tree", [named])
    meta = json.loads((tree / named.uid / "meta.json").read_text())
    meta["locations"][0]["frames"][0]["name"] = "<script>.webp"
    (tree / named.uid / "meta.json").write_text(json.dumps(meta))
    assert check(tree, "--out", tmp_path / "out") == 1
    page = (tmp_path / "out/report.html").read_text()
    assert "<script>" not in page
    assert "<b>bold" not in page
