"""Shards: WebDataset's own library and our reader find in them what the folders held, whatever happened on the way."""

import io
import itertools
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from mesh_trees import Here, slab, write_meshes
from PIL import Image

from ouroboros3d.cli import main
from ouroboros3d.datamodules.datasets import MultiviewDataset, collate
from ouroboros3d.datamodules.loaders import DrawSampler, ResumableLoader
from ouroboros3d.datamodules.objaverse import ObjaverseDataModule
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.posed_renders import PosedRenders
from ouroboros3d.datamodules.readers.detection import open_tree
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.meshes import MeshFolderReader
from ouroboros3d.datamodules.readers.ouroboros3d import Ouroboros3DReader
from ouroboros3d.datamodules.readers.shards import ShardIndex, ShardReader
from ouroboros3d.datamodules.rendering.folder import RenderFolder
from ouroboros3d.datamodules.rendering.shards import ShardFolder
from ouroboros3d.datamodules.views import ObjectViews

UIDS = ["a", "b", "c", "d", "e"]
RIG = OrbitRig(32, 2, 4, (10.0, 40.0), supersampling=1)
LIMIT = 33_000  # bytes: two objects a shard


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_meshes(tmp_path_factory.mktemp("tree") / "meshes", {uid: slab(i) for i, uid in enumerate(UIDS)})


@pytest.fixture(scope="module")
def folders(meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The objects as folders; tests must not write into it."""
    out = tmp_path_factory.mktemp("renders") / "folders"
    assets = MeshFolderReader(meshes).select()
    RenderFolder(out, RIG, ("depth",)).render(assets, workers=1, timeout_s=60, surface_points=50, start=Here)
    return out


@pytest.fixture(scope="module")
def shards(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as shards."""
    out = tmp_path_factory.mktemp("renders") / "shards"
    shutil.copytree(folders, out)
    assert ShardFolder(out, RIG, ("depth",)).pack(LIMIT) == 3
    return out


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("shard-*")}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:webdataset")
def test_the_webdataset_library_reads_every_orbit_as_one_sample(folders: Path, shards: Path) -> None:
    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"{uid}-0{orbit}" for uid in UIDS for orbit in range(2)]
    for sample in samples:
        folder = folders / sample["__key__"]
        assert {name: sample[name] for name in sample if not name.startswith("__")} == {
            path.name: path.read_bytes() for path in folder.iterdir()
        }
        meta = json.loads(sample["meta.json"])
        view = np.asarray(Image.open(io.BytesIO(sample[meta["locations"][2]["frames"][0]["name"]])))
        assert view.shape == (32, 32, 4)


def test_our_reader_finds_what_the_folders_held(folders: Path, shards: Path) -> None:
    assert not list(shards.glob("*/meta.json"))
    packed, loose = open_tree(shards), open_tree(folders)
    assert isinstance(packed, ShardReader)
    assert isinstance(loose, Ouroboros3DReader)
    assert packed.uids == loose.uids == UIDS
    assert packed.listed_splits() == loose.listed_splits()
    for uid in UIDS:
        one, other = packed.read(uid), loose.read(uid)
        assert (one.size, one.rings, len(one)) == (other.size, other.rings, 8)
        assert torch.equal(one.cameras.c2w_opencv, other.cameras.c2w_opencv)
        assert all(torch.equal(one.rgba(view), other.rgba(view)) for view in range(8))
        assert one.depth is not None
        assert other.depth is not None
        assert torch.equal(one.depth(3), other.depth(3))
        assert one.normals is None
        assert packed.has_true_geometry(uid, 50)
        assert not packed.has_true_geometry(uid, 51)
        assert torch.equal(packed.true_geometry(uid, 50).coordinates, loose.true_geometry(uid, 50).coordinates)


def test_batches_from_shards_are_those_from_folders(folders: Path, shards: Path) -> None:
    def batch(root: Path) -> torch.Tensor:
        data = ObjaverseDataModule(root=root, rig=OrbitRig(32), num_views=2, batch_size=2)
        data.prepare_data()
        data.setup("fit")
        return next(iter(data.train_dataloader())).images_01

    assert torch.equal(batch(shards), batch(folders))


def test_a_kill_while_packing_leaves_what_the_same_command_completes(
    meshes: Path, folders: Path, shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(folders, out)
    for name in ("shard-000000.tar", "shard-000000.jsonl", "shard-000001.tar"):
        shutil.copy(shards / name, out)  # the folders of the first are still there, the second has no index
    shutil.rmtree(out / "a-01")
    (out / "shard-000001.tar").write_bytes(b"half")
    main(
        f"render {meshes} --out {out} --shards 1 --workers 1 --size 32 --views 4 --orbits 2 --elevation_deg 10 40 "
        "--supersampling 1 --maps depth --surface_points 50".split()
    )
    assert ShardReader(out).uids == UIDS
    assert not list(out.glob("*/meta.json"))
    packed = tars(out)
    assert packed["shard-000000.tar"] == (shards / "shard-000000.tar").read_bytes()
    assert sorted(packed) == [f"shard-00000{number}.{suffix}" for number in range(2) for suffix in ("jsonl", "tar")]
    with pytest.raises(SystemExit):
        main(f"render {meshes} --out {out} --size 32".split())


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_object_is_drawn_exactly_once_an_epoch(shards: Path, world_size: int, num_workers: int) -> None:
    """Five objects, which neither two nor three processes can share evenly: the next epoch begins within a step."""

    def drawn(rank: int) -> Iterator[str]:
        source = PosedRenders(ShardReader(shards), shards.parent)
        dataset = MultiviewDataset(ObjectViews(source, 32, 1), UIDS, 2, 1, "white", seed=0)
        sampler = DrawSampler(dataset, 1, 1, 0, world_size, rank)
        loader = ResumableLoader(
            dataset, batch_size=1, sampler=sampler, num_workers=num_workers, collate_fn=partial(collate, num_views=2)
        )
        while True:
            for batch in loader:
                yield from batch.uids

    steps = zip(*(drawn(rank) for rank in range(world_size)), strict=True)
    stream = list(itertools.islice(itertools.chain.from_iterable(steps), 3 * len(UIDS)))
    epochs = [stream[start : start + len(UIDS)] for start in range(0, len(stream), len(UIDS))]
    assert [sorted(epoch) for epoch in epochs] == [UIDS] * 3
    assert epochs[1] != epochs[2], "in another order"


def test_broken_shards_are_named(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(shards, out)
    (out / "shard-000001.tar").write_bytes((out / "shard-000001.tar").read_bytes()[:5000])
    (out / "shard-000002.tar").unlink()
    reader = ShardReader(out)
    with pytest.raises(SampleError, match=r"shard-000001\.tar:d-00\.meta\.json, got .*the archive ends after"):
        reader.read("d").rgba(7)
    with pytest.raises(SampleError, match=r"e: expected .*shard-000002\.tar, which does not exist"):
        reader.read("e")
    with pytest.raises(SampleError, match="nobody: expected an object of the shards"):
        reader.read("nobody")
    (out / "shard-000000.jsonl").write_text('{"uid": "hollow", "members": {}}\n')
    with pytest.raises(SampleError, match="hollow: expected the orbits of an object in"):
        ShardReader(out).has_true_geometry("hollow", 50)
    (out / "shard-000000.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"expected the index of a shard in .*shard-000000\.jsonl"):
        ShardIndex(out)


def test_names_that_webdataset_would_cut_and_a_second_packer_are_refused(tmp_path: Path) -> None:
    root = write_meshes(tmp_path / "tree", {"chair.v2": slab(0)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUROBOROS3D_DEBUG", "1")
        with pytest.raises(ValueError, match=r"expected uids without a dot.*'chair\.v2'"):
            main(["render", str(root), "--out", str(tmp_path / "out"), "--shards", "1"])
    first = ShardFolder(tmp_path / "out", RIG)
    with pytest.raises(ValueError, match="another render packs shards"):
        ShardFolder(tmp_path / "out", RIG)
    assert first.pack(LIMIT) == 0
