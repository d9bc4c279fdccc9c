from pathlib import Path

from ouroboros3d.datamodules.meshes.glb import load_glb
from ouroboros3d.datamodules.readers.objaverse import ObjaverseReader
from ouroboros3d.datamodules.selection import BUNDLED
from ouroboros3d.datamodules.splits import (
    SPLITS,
    hashed_integer,
    hashed_uniform,
    read_splits,
    split_of,
    splits_sha256,
    write_splits,
)

# Of the committed lists; another value here means that another experiment is run under the same name.
BUNDLED_SHA256 = "30fa006b00d2d58c4235e16d505ee8a021e6e5f21eed26ef5619147ddb0e308c"


def test_hash_is_the_same_on_every_machine() -> None:
    # Computed once with `python -c` and hashlib; a change would move objects between splits.
    assert hashed_integer("split", "abc") == 783149028116388111
    assert 0 <= hashed_uniform("split", "abc") < 1
    assert hashed_uniform("a", "bc") != hashed_uniform("ab", "c")


def test_fractions_are_met_and_larger_ones_only_add() -> None:
    uids = [f"object{number}" for number in range(4000)]
    share = {split: sum(split_of(uid) == split for uid in uids) / len(uids) for split in SPLITS}
    # Standard deviation of a share of 0.15 among 4000 is 0.006.
    assert abs(share["test"] - 0.15) < 0.02
    assert abs(share["val"] - 0.1) < 0.02
    for uid in uids[:200]:
        if split_of(uid) == "test":
            assert split_of(uid, 0.1, 0.3) == "test"
        assert split_of(uid, 0, 0) == "train"


def test_lists_survive_the_disk(tmp_path: Path) -> None:
    names = {"train": ["red table", "red chair"], "val": [], "test": ["c"]}
    write_splits(tmp_path, names)
    assert read_splits(tmp_path) == {"train": ["red chair", "red table"], "val": [], "test": ["c"]}
    assert splits_sha256(read_splits(tmp_path)) == splits_sha256(names)
    assert splits_sha256({"train": ["a"], "val": ["b"], "test": ["c"]}) != splits_sha256(names)


def test_bundled_lists_are_what_the_rule_says() -> None:
    assets = ObjaverseReader(BUNDLED).select()
    listed = read_splits(BUNDLED)
    assert splits_sha256(listed) == BUNDLED_SHA256
    assert BUNDLED_SHA256 in (BUNDLED / "README.md").read_text()
    for split in SPLITS:
        assert listed[split] == [asset.uid for asset in assets if split_of(asset.uid) == split]
    assert {split: len(uids) for split, uids in listed.items()} == {"train": 32, "val": 4, "test": 8}


def test_bundled_objects_may_be_shipped_and_can_be_read() -> None:
    assets = ObjaverseReader(BUNDLED).select()
    assert {asset.license for asset in assets} == {"cc0"}
    assert len({name for asset in assets for name in asset.categories}) >= 40
    assert sum(file.stat().st_size for file in BUNDLED.rglob("*") if file.is_file()) < 4e6
    readme = (BUNDLED / "README.md").read_text()
    for asset in assets:
        assert f"`{asset.uid}`" in readme
        assert asset.author in readme
        mesh, _, _ = load_glb(asset.path).normalised()
        assert len(mesh.faces) > 10
