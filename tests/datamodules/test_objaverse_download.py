"""Downloading through the package `objaverse`: the package is real, the host is a folder."""

import shutil
import socket
import urllib.error
import urllib.request
from pathlib import Path

import objaverse
import pytest
from conftest import RIG, Tree

from ouroboros3d.datamodules.objaverse import ObjaverseDataModule

HOST = "https://huggingface.co/datasets/allenai/objaverse/resolve/main/"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the package keeps its files."""
    monkeypatch.setattr(objaverse, "BASE_PATH", str(tmp_path / "home"))
    monkeypatch.setattr(objaverse, "_VERSIONED_PATH", str(tmp_path / "home/hf-objaverse-v1"))
    return tmp_path / "home/hf-objaverse-v1"


@pytest.fixture
def fetched(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the host, which has the files of `tree`, waits for nobody and fails after ten."""
    asked: list[str] = []

    def retrieve(url: str, path: str) -> None:
        assert socket.getdefaulttimeout()
        asked.append(url.removeprefix(HOST))
        if len(asked) == 10:
            raise urllib.error.URLError("connection reset")
        shutil.copy(tree.root / asked[-1], path)

    monkeypatch.setattr(urllib.request, "urlretrieve", retrieve)
    return asked


def module(cache_dir: Path, **changes: object) -> ObjaverseDataModule:
    return ObjaverseDataModule(download=True, cache_dir=cache_dir, num_views=2, rig=RIG, **changes)


def test_chosen_objects_are_fetched_once_and_an_interrupted_download_goes_on(
    home: Path, fetched: list[str], tree: Tree, cache_dir: Path
) -> None:
    uids = tree.all_uids
    data = module(cache_dir, uids=uids)
    with pytest.raises(ValueError, match=r"expected to reach the host of Objaverse, got .*connection reset.* goes on"):
        data.prepare_data()
    before = len(fetched)
    assert fetched[:3] == ["object-paths.json.gz", "lvis-annotations.json.gz", "metadata/000-007.json.gz"]
    data = module(cache_dir, uids=uids)
    data.prepare_data()  # the rendered cache is there
    again = fetched[before:]
    assert sorted(again) == sorted(f"glbs/000-007/{uid}.glb" for uid in uids if f"{uid}.glb" not in str(fetched[:9]))
    assert {asset.license for assets in data.assets().values() for asset in assets} == {"cc0"}
    data.setup("fit")
    asked = len(fetched)
    data.prepare_data()
    assert len(fetched) == asked
    assert socket.getdefaulttimeout() is None
    assert sorted(path.stem for path in home.rglob("*.glb")) == uids


def test_a_category_and_a_count_choose_what_is_fetched(
    home: Path, fetched: list[str], tree: Tree, cache_dir: Path
) -> None:
    module(cache_dir, categories=["odd_slab"], max_objects=1).prepare_data()
    glbs = [name for name in fetched if name.endswith(".glb")]
    assert 1 <= len(glbs) <= 3
    assert {Path(name).stem for name in glbs} <= set(tree.all_uids[1::2])


def test_without_a_network_it_says_so_at_once(home: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, path: str) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlretrieve", refuse)
    with pytest.raises(ValueError, match=r"got .*Name or service not known.*; the lists are missing"):
        module(cache_dir, max_objects=3).prepare_data()


def test_all_of_objaverse_is_too_much_and_a_root_is_another_thing(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="download: expected categories, uids or max_objects, got none"):
        ObjaverseDataModule(download=True)
    with pytest.raises(ValueError, match="download: expected no root"):
        ObjaverseDataModule(download=True, root=tmp_path, max_objects=1)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"run `pip install ouroboros3d\[objaverse\]`"):
        ObjaverseDataModule(download=True, max_objects=1)
