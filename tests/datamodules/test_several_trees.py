"""Several trees at once: the objects that they have together, their names, and that each is held out of all or none."""

import itertools
import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import posed_writers as writers
import pytest
import torch
from commands import refusal
from conftest import RIG, Tree, glb, write_tree
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from posed_writers import ORBIT
from torch.testing import assert_close

from ouroboros3d.cli import main
from ouroboros3d.datamodules.left_out import Ledger
from ouroboros3d.datamodules.objaverse import ObjaverseDataModule
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.readers.detection import open_tree
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.posed import PosedReader
from ouroboros3d.datamodules.selection import BUNDLED
from ouroboros3d.datamodules.splits import SPLITS, Split, split_of
from ouroboros3d.datamodules.verdicts import Verdict, write_verdict

ROOT = Path(__file__).parents[2]


def uids(split: Split) -> Iterator[str]:
    return (uid for uid in (f"thing{number}" for number in itertools.count()) if split_of(uid) == split)


ALONE, SAME, CLASH, OTHER = itertools.islice(uids("train"), 4)
# Its names among several trees would fall into other splits than itself.
HELD_OUT = next(uid for uid in uids("test") if {split_of(f"{tree}--{uid}") for tree in ("one", "two")} == {"train"})


def module(*roots: Path, **changes: object) -> ObjaverseDataModule:
    options = {"num_views": 2, "num_target_views": 1, "batch_size": 1, "samples_per_object": 1, "render_workers": 1}
    return ObjaverseDataModule(root=list(roots), **{**options, "rig": RIG, **changes})


def ready(*roots: Path, stage: str = "fit", **changes: object) -> ObjaverseDataModule:
    data = module(*roots, **changes)
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    data.trainer.state.fn = TrainerFn.TESTING if stage == "test" else TrainerFn.FITTING
    data.prepare_data()
    data.setup(stage)
    return data


def names(data: ObjaverseDataModule) -> list[str]:
    return sorted(name for members in data.objects().values() for name in members)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {ALONE: glb(0), SAME: glb(1), CLASH: glb(2), HELD_OUT: glb(3)}
    return write_tree(tmp_path_factory.mktemp("trees") / "one", files, {"slab": [ALONE, CLASH]})


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {OTHER: glb(4), SAME: glb(1), CLASH: glb(15), HELD_OUT: glb(14)}
    return write_tree(tmp_path_factory.mktemp("trees") / "two", files, {"slab": [OTHER], "cube": [SAME]})


@pytest.fixture(scope="module")
def cache(one: Path, two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both trees' views; tests must not write into it."""
    folder = tmp_path_factory.mktemp("cache")
    module(one, two, cache_dir=folder).prepare_data()
    return folder


TOGETHER = sorted([ALONE, SAME, OTHER, *(f"{tree}--{uid}" for tree in ("one", "two") for uid in (CLASH, HELD_OUT))])


def test_every_object_has_one_name_and_copies_have_none(one: Path, two: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ouroboros3d")
    data = module(one, two)
    assert names(data) == TOGETHER
    assert re.search(
        r"7 objects in 2 trees; 1 copies .*, 4 objects share a uid .*tree, such as one--thing", caplog.text
    )
    assert module(two, one).objects() == data.objects()
    assert [asset.uid for assets in data.assets().values() for asset in assets if asset.uid == SAME] == [SAME]


def test_the_split_is_that_of_the_uid(one: Path, two: Path, cache: Path) -> None:
    objects = module(one, two).objects()
    assert objects["test"] == [f"one--{HELD_OUT}", f"two--{HELD_OUT}"]
    assert objects["train"] == [name for name in TOGETHER if HELD_OUT not in name]
    (folder,) = cache.glob("48px-*")  # and in the cache, which may be copied and trained on as a tree of its own
    held_out = {f"{tree}--{HELD_OUT}-0{orbit}" for tree in ("one", "two") for orbit in range(2)}
    assert set((folder / "test.txt").read_text().split()) == held_out


def test_what_any_tree_lists_as_held_out_is_trained_on_from_none(one: Path, tmp_path: Path) -> None:
    renders = tmp_path / "renders"
    for uid in (ALONE, CLASH, SAME, HELD_OUT):
        writers.official(renders, uid, ORBIT[:1])
    (renders / "val.txt").write_text(f"{ALONE}\n")
    (renders / "test.txt").write_text(f"{CLASH}\n")
    (renders / "train.txt").write_text(f"{HELD_OUT}\n")  # which the hash alone would hold out
    more = tmp_path / "more"
    writers.official(more, ALONE, ORBIT[:1])
    writers.official(more, "z", ORBIT[:1])
    (more / "train.txt").unlink()
    (more / "test.txt").write_text(f"{ALONE}\n")
    (more / "val.txt").write_text("z\n")
    objects = module(one, renders, more).objects()
    assert objects["test"] == sorted(
        [f"{tree}--{ALONE}" for tree in ("more", "one", "renders")]
        + [f"{tree}--{CLASH}" for tree in ("one", "renders")]
    )
    assert objects["val"] == ["z"]
    assert objects["train"] == sorted(f"{tree}--{uid}" for tree in ("one", "renders") for uid in (SAME, HELD_OUT))


def test_each_name_shows_its_own_mesh_and_no_tree_renders_anothers_again(one: Path, two: Path, cache: Path) -> None:
    """Slabs are told apart by the green of their colour, (60 + 12 * index) / 255 in linear light."""
    expected = {f"one--{CLASH}": 2, f"two--{CLASH}": 15, SAME: 1, ALONE: 0, OTHER: 4}
    seen = {}
    for batch in ready(one, two, cache_dir=cache).train_dataloader():
        solid = batch.images_01[0, 0][:, batch.alpha[0, 0, 0] == 1]
        seen[batch.uids[0]] = solid[1, solid[2] > 0.5].median().item()  # the marker has no blue
    greens = {name: 1.055 * ((60 + 12 * index) / 255) ** (1 / 2.4) - 0.055 for name, index in expected.items()}
    assert_close(seen, greens, atol=1 / 255, rtol=0)
    (index,) = cache.glob("48px-*/index.jsonl")
    before = index.read_text()
    module(two, one, cache_dir=cache).prepare_data()
    assert index.read_text() == before


def test_a_tree_renders_alone_what_it_does_not_share(one: Path, two: Path, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(cache, tmp_path / "cache")
    (index,) = (tmp_path / "cache").glob("48px-*/index.jsonl")
    before = len(index.read_text().splitlines())
    module(one, cache_dir=tmp_path / "cache").prepare_data()
    rendered = [json.loads(line)["uid"] for line in index.read_text().splitlines()[before:]]
    assert sorted(rendered) == sorted([CLASH, HELD_OUT]), "under their uids; the others are there"


def test_a_list_of_one_tree_is_that_tree(tree: Tree, cache_dir: Path) -> None:
    options = {"num_views": 2, "num_target_views": 1, "batch_size": 2, "cache_dir": cache_dir, "rig": RIG}
    listed, alone = (ObjaverseDataModule(root=root, **options) for root in ([tree.root], tree.root))
    for data in (listed, alone):
        data.setup("fit")
    for left, right in zip(listed.train_dataloader(), alone.train_dataloader(), strict=True):
        assert left.uids == right.uids
        assert torch.equal(left.images_01, right.images_01)
    assert listed.test_protocol() == alone.test_protocol()


def test_filters_act_on_all_trees_together(
    one: Path, two: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    of = f"{{}}--{CLASH}".format
    assert names(module(one, two, categories=["slab"])) == sorted([ALONE, OTHER, of("one"), of("two")])
    assert names(module(one, two, categories=["cube"])) == [SAME]
    assert names(module(one, two, uids=[CLASH, SAME])) == sorted([SAME, of("one"), of("two")])
    assert names(module(one, two, uids=[of("two")], categories=["slab"])) == [of("two")]
    assert names(module(one, two, skip_uids=[CLASH, f"one--{HELD_OUT}"])) == sorted(
        {ALONE, SAME, OTHER, f"two--{HELD_OUT}"}
    )
    assert "are no objects of" not in caplog.text
    assert [len(members) for members in module(one, two, max_objects=2).objects().values()] == [2, 0, 2]
    with pytest.raises(ValueError, match=rf"uids: expected names among the 7 objects of {one} and {two}, got 'thing'"):
        module(one, two, uids=["thing"]).objects()
    with pytest.raises(
        ValueError, match=r"categories: expected names among the 2 LVIS categories of .*did you mean cube"
    ):
        module(one, two, categories=["cub"]).objects()
    with pytest.raises(ValueError, match=r"expected at least one object of .* got none; leave one of the two"):
        module(one, two, categories=["cube"], uids=[ALONE]).objects()
    for tree in ("a", "b"):
        writers.official(tmp_path / tree, f"{tree}0", ORBIT[:1])
    with pytest.raises(ValueError, match=f"categories: expected a tree that has any, got {tmp_path / 'a'} and"):
        module(tmp_path / "a", tmp_path / "b", categories=["cube"]).objects()


def test_meshes_and_renders_make_batches_together(one: Path, two: Path, cache: Path, tmp_path: Path) -> None:
    lonely, broken = itertools.islice((uid for uid in uids("test") if uid != HELD_OUT), 2)
    renders = tmp_path / "renders"
    for uid in (lonely, broken, HELD_OUT):
        writers.official(renders, uid, ORBIT[:8])
    (renders / broken / "meta.json").write_text("{")
    shutil.copytree(cache, tmp_path / "cache")
    options = {"cache_dir": tmp_path / "cache", "surface_points": 50}
    meshes = ready(one, two, stage="test", **options)
    surfaces = [batch.surface for batch in meshes.test_dataloader()]
    assert [surface.shape for surface in surfaces if surface is not None] == [(1, 50)] * 2
    assert meshes.test_protocol()["num_points"] == 50
    data = ready(one, renders, stage="test", **options)
    batches = {batch.uids[0]: batch for batch in data.test_dataloader()}
    assert sorted(batches) == sorted([lonely, f"one--{HELD_OUT}", f"renders--{HELD_OUT}"])
    assert not torch.equal(batches[f"one--{HELD_OUT}"].images_01, batches[f"renders--{HELD_OUT}"].images_01)
    assert list(data.failed) == [broken]
    assert all(batch.surface is None for batch in batches.values()), "not all trees carry surfaces: none is measured"
    # Listed under its own uid, in its own tree's list: that tree alone leaves it out as well.
    tree = open_tree(renders)
    assert isinstance(tree, PosedReader)
    assert list(Ledger.of(tree, tmp_path / "cache").read()) == [broken]
    alone = ready(renders, stage="test", **options)
    assert alone.tested_uids() == sorted([lonely, HELD_OUT])
    protocol = data.test_protocol()
    assert protocol["dataset"] == sorted([str(one), str(renders)])
    assert protocol["resize_filter"] == "hamming, none"
    assert protocol["num_points"] == 0
    ranges = alone.test_protocol()
    for name in ("fov_deg", "radius"):
        rig = getattr(data.rig, name)
        assert protocol[name] == [min(rig, ranges[name][0]), max(rig, ranges[name][1])]
    assert ready(renders, one, stage="test", **options).test_protocol() == protocol
    writers.official(renders, lonely, ORBIT[1:9])
    assert ready(renders, one, stage="test", **options).test_protocol()["data_sha256"] != protocol["data_sha256"]


def test_a_drawn_object_that_cannot_be_read_is_listed_in_its_own_tree(tmp_path: Path) -> None:
    roots = [tmp_path / "a", tmp_path / "b"]
    for root in roots:
        writers.official(root, ALONE, ORBIT[:8])
    options = {"cache_dir": tmp_path / "cache", "rig": OrbitRig(16)}
    data = ready(*roots, **options)
    for view in (roots[1] / ALONE).glob("*.webp"):
        view.write_bytes(view.read_bytes()[:100])
    with pytest.raises(SampleError, match=rf"^{ALONE}: .*It is listed in .*left_out/b-\w+\.jsonl"):
        list(data.train_dataloader())
    later = ready(*roots, **options)
    assert {batch.uids for batch in later.train_dataloader()} == {(f"a--{ALONE}",)}
    writers.official(roots[1], ALONE, ORBIT[:8])
    assert len(list(ready(*roots, retry_failed=True, **options).train_dataloader())) == 2


def test_a_failed_check_counts_where_the_tree_is_used(tmp_path: Path) -> None:
    roots = [tmp_path / "good", tmp_path / "bad"]
    for root, uid in zip(roots, (ALONE, OTHER), strict=True):
        writers.official(root, uid, ORBIT[:8])
    tree = open_tree(roots[1])
    assert isinstance(tree, PosedReader)
    failed = Verdict(str(roots[1]), tree.name, "2026-01-02T03:04", ("cameras are mirrored",), "report.html")
    write_verdict(failed, tree, tmp_path / "cache")
    options = {"cache_dir": tmp_path / "cache", "rig": OrbitRig(16)}
    with pytest.raises(ValueError, match=f"got {roots[1]}, which failed on 2026-01-02: cameras are mirrored"):
        ready(*roots, **options)
    ready(*roots, ignore_check=True, **options)
    ready(*roots, uids=[ALONE], **options)


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        writers.official(tmp_path / parent / ".renders", ALONE, ORBIT[:1])
    trees = [tmp_path / parent / ".renders" for parent in ("a", "b")]
    found = names(module(*trees))
    assert found == names(module(*reversed(trees)))
    assert len(set(found)) == 2
    assert all(re.fullmatch(rf"renders-[0-9a-f]{{8}}--{ALONE}", name) for name in found)


def test_an_axis_of_its_own_makes_another_object_of_the_same_file(tmp_path: Path) -> None:
    mesh = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    for path in (tmp_path / "scans/Mug/meshes/model.obj", tmp_path / "plain/Mug.obj", tmp_path / "copy/Mug/a.obj"):
        path.parent.mkdir(parents=True)
        path.write_bytes(mesh)
    (tmp_path / "scans/Mug/metadata.pbtxt").touch()
    found = names(module(tmp_path / "scans", tmp_path / "plain", tmp_path / "copy"))
    assert found == ["copy--Mug", "scans--Mug"]


@pytest.mark.parametrize(
    ("uid", "message"),
    [("x" * 198, "of at most 200 bytes, got 'b--x+' for 1"), ("y", "a name of its own .* got 'a--y' for 2")],
)
def test_names_that_no_file_or_two_objects_would_have(tmp_path: Path, uid: str, message: str) -> None:
    for tree in ("a", "b"):
        writers.official(tmp_path / tree, uid, ORBIT[:1])
    if uid == "y":
        writers.official(tmp_path / "b", "a--y", ORBIT[:1])
    else:
        shutil.move(tmp_path / "a", tmp_path / "bb")
    with pytest.raises(ValueError, match=rf"^root: expected .*{message} in .*; rename the folder of its tree\.$"):
        module(*(path for path in tmp_path.iterdir()))


@pytest.mark.parametrize(
    ("roots", "message"),
    [
        ("[]", "root: expected at least one tree, got an empty list"),
        ("[tree, link]", "root: expected each tree once, got .*/tree twice"),
        ("[bundled, nowhere]", "root: expected a folder .* got nowhere, which does not exist"),
        ("[bundled, empty]", "root: expected a known format in empty, found none"),
        (f"[bundled, {BUNDLED}]", f"root: expected each tree once, got {BUNDLED} twice"),
    ],
)
def test_what_is_no_list_of_trees_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], roots: str, message: str
) -> None:
    writers.official(here / "tree", ALONE, ORBIT[:1])
    (here / "link").symlink_to("tree")
    (here / "empty").mkdir()
    tiny = [f"--config={ROOT / name}" for name in ("ablations/staged.yaml", "tests/tiny.yaml")]
    assert re.search(message, refusal(capsys, "fit", *tiny, f"--data.root={roots}"))


def test_bundled_names_the_packages_own_objects(here: Path, one: Path) -> None:
    alone = ObjaverseDataModule().objects()
    assert ObjaverseDataModule(root=Path("bundled")).objects() == alone
    together = module(Path("bundled"), one).objects()
    assert {split: len(together[split]) - len(alone[split]) for split in SPLITS} == {"train": 3, "val": 0, "test": 1}
    (here / "bundled").mkdir()
    with pytest.raises(ValueError, match=rf"got a folder of this name .* write {here / 'bundled'} for the folder"):
        module(Path("bundled"), one)


def test_the_command_line_trains_and_tests_on_several_trees(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for tree, members in {"left": [ALONE, HELD_OUT], "right": [OTHER, HELD_OUT]}.items():
        for uid in members:
            writers.official(here / tree, uid, ORBIT[:8])
    config = [f"--config={ROOT / name}" for name in ("ablations/staged.yaml", "tests/tiny.yaml")]
    main(["fit", *config, "--data.root=[left, right]", "--trainer.max_steps=1", "--trainer.limit_val_batches=0"])
    main(["test"])
    results = json.loads((here / "runs/staged/version_0/results.json").read_text())
    assert results["dataset"] == ["left", "right"]
    assert (results["objects"], results["failed"]) == (2, 0)
    objects = here / "runs/staged/version_0/objects"
    assert sorted(path.name for path in objects.iterdir()) == [f"left--{HELD_OUT}", f"right--{HELD_OUT}"]
    main(["export", "--ckpt_path=runs/staged/version_0/checkpoints/last.ckpt", "--out=exported"])
    card = (here / "exported/README.md").read_text()
    assert "Data: `left`; its objects have" in card
    assert "objects of `left` and `right`" in card
