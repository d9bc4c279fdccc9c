import gzip
import json
from pathlib import Path

import pytest
from conftest import Tree, write_tree

from ouroboros3d.datamodules.readers.objaverse import ObjaverseReader


@pytest.fixture
def small(tmp_path: Path) -> Path:
    categories = {"coffee_cup": ["aa", "bb"], "tea_cup": ["cc"], "chair": ["bb"], "absent": ["zz"]}
    return write_tree(tmp_path / "tree", {"aa": b"", "bb": b"", "cc": b"", "dd": b""}, categories)


def rewrite(path: Path, content: object) -> None:
    path.write_bytes(gzip.compress(json.dumps(content).encode()))


def test_assets_carry_path_licence_and_categories(small: Path) -> None:
    reader = ObjaverseReader(small)
    assert reader.uids == ["aa", "bb", "cc", "dd"]
    asset = reader.select(uids=["bb"])[0]
    assert asset.path == small / "glbs/000-007/bb.glb"
    assert asset.categories == ("chair", "coffee_cup")
    assert (asset.license, asset.name, asset.author, asset.source) == ("cc0", "Object bb", "maker", "here")
    assert set(reader.uids_by_category) == {"coffee_cup", "tea_cup", "chair"}


def test_selection_is_the_union_of_categories_and_the_intersection_with_uids(small: Path) -> None:
    reader = ObjaverseReader(small)
    assert [a.uid for a in reader.select(["chair", "tea_cup"])] == ["bb", "cc"]
    assert [a.uid for a in reader.select(["coffee_cup"], ["cc", "bb"])] == ["bb"]
    assert [a.uid for a in reader.select()] == ["aa", "bb", "cc", "dd"]


def test_metadata_and_annotations_are_optional(small: Path) -> None:
    (small / "metadata/000-007.json.gz").unlink()
    (small / "lvis-annotations.json.gz").unlink()
    asset = ObjaverseReader(small).select(uids=["aa"])[0]
    assert (asset.license, asset.categories) == ("unknown", ())
    with pytest.raises(ValueError, match="among the 0 LVIS categories"):
        ObjaverseReader(small).select(["chair"])


@pytest.mark.parametrize(
    ("categories", "uids", "message"),
    [
        (["chiar"], None, "categories: expected names among the 3 LVIS categories .* got 'chiar'; did you mean chair"),
        (["cup"], None, "did you mean .*coffee_cup"),
        (["xyzzy"], None, "for example chair, coffee_cup, tea_cup"),
        (None, ["aa", "ee"], "uids: expected names among the 4 objects of .* got 'ee'"),
        (["chair"], ["aa"], "no object left"),
        ([], None, "no object left"),
    ],
)
def test_unknown_names(small: Path, categories: list[str] | None, uids: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjaverseReader(small).select(categories, uids)


def test_wrong_roots(small: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        ObjaverseReader(small / "nowhere")
    with pytest.raises(ValueError, match="is a file"):
        ObjaverseReader(small / "object-paths.json.gz")
    for near in (small.parent, small / "glbs"):
        with pytest.raises(ValueError, match=f"did you mean {small}"):
            ObjaverseReader(near)
    with pytest.raises(ValueError, match="leave root out for the bundled objects"):
        ObjaverseReader(small / "glbs/000-007")


def test_broken_indices(small: Path) -> None:
    index = small / "object-paths.json.gz"
    rewrite(index, {})
    with pytest.raises(ValueError, match="the tree is empty"):
        ObjaverseReader(small)
    rewrite(index, ["aa"])
    with pytest.raises(ValueError, match="JSON object"):
        ObjaverseReader(small)
    index.write_bytes(gzip.compress(b'{"aa": "glbs/000-007/aa.glb"}')[:-12])
    with pytest.raises(ValueError, match="gzipped JSON"):
        ObjaverseReader(small)


@pytest.mark.parametrize(
    "entry",
    [
        {"aa": "../../etc/passwd"},
        {"aa": "/etc/passwd"},
        {"aa": 3},
        {"../aa": "glbs/aa.glb"},
        {"": "glbs/aa.glb"},
        {".hidden": "glbs/aa.glb"},
    ],
)
def test_an_index_cannot_leave_its_folder(small: Path, entry: dict[str, object]) -> None:
    rewrite(small / "object-paths.json.gz", entry)
    with pytest.raises(ValueError, match="uids that can name a folder and paths inside"):
        ObjaverseReader(small)


def test_made_tree_is_read(tree: Tree) -> None:
    assert ObjaverseReader(tree.root).uids == tree.all_uids
