"""A small tree in the Objaverse layout, written here with known geometry, and its rendered cache."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import trimesh

from ouroboros3d.datamodules.objaverse import ObjaverseDataModule
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.splits import Split, split_of

# Objects of the tree per split; the names are made up until the hash has given each split its share.
COUNTS: dict[Split, int] = {"train": 5, "val": 2, "test": 3}
# A rig as small as the code allows to be tested with: two orbits, more than one view to skip, marker always in sight.
RIG = OrbitRig(image_size=48, orbits=2, views=4, elevation_deg=(10.0, 40.0), supersampling=1)


@dataclass(frozen=True)
class Tree:
    root: Path
    uids: dict[Split, list[str]]

    @property
    def all_uids(self) -> list[str]:
        return sorted(uid for uids in self.uids.values() for uid in uids)


def body_and_marker(index: int) -> tuple[trimesh.Trimesh, trimesh.Trimesh, np.ndarray]:
    """A grey-blue slab, a red cube on one of its corners, and the cube's centre: nothing is symmetric or centred."""
    size = np.array([1.0, 0.3, 0.6]) * (2 + index)
    edge = 0.2 * size[1] + 0.08 * size[0]
    place = size / 2 * [0.8, 1, 0.75] + [0, edge / 2, 0]
    shift = np.array([3.0, -1.0, 0.5 * index])
    slab = trimesh.creation.box(size)
    cube = trimesh.creation.box([edge] * 3)
    cube.apply_translation(place)
    for mesh, colour in ((slab, [40, 60 + 12 * index, 160, 255]), (cube, [255, 0, 0, 255])):
        mesh.apply_translation(shift)
        mesh.visual = trimesh.visual.TextureVisuals(
            material=trimesh.visual.material.PBRMaterial(baseColorFactor=colour, alphaMode="OPAQUE")
        )
    return slab, cube, place + shift


def glb(index: int) -> bytes:
    slab, cube, _ = body_and_marker(index)
    content = trimesh.Scene([slab, cube]).export(file_type="glb")
    assert isinstance(content, bytes)
    return content


def marker_normalised(index: int) -> np.ndarray:
    """The cube's centre after docs/formats.md, section 1.1: box centred, longest edge <= 1, radius <= 0.58."""
    slab, cube, marker = body_and_marker(index)
    vertices = np.concatenate([slab.vertices, cube.vertices])
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    centre = (low + high) / 2
    radius = np.linalg.norm(vertices - centre, axis=1).max()
    return (marker - centre) * min(1 / (high - low).max(), 0.58 / radius)


def write_tree(root: Path, files: dict[str, bytes], categories: dict[str, Sequence[str]] | None = None) -> Path:
    """An Objaverse cache layout of these files, all in one shard."""

    def gz(path: Path, content: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(json.dumps(content).encode()))

    (root / "glbs/000-007").mkdir(parents=True)
    for uid, content in files.items():
        (root / "glbs/000-007" / f"{uid}.glb").write_bytes(content)
    gz(root / "object-paths.json.gz", {uid: f"glbs/000-007/{uid}.glb" for uid in files})
    gz(root / "lvis-annotations.json.gz", {name: list(uids) for name, uids in (categories or {}).items()})
    metadata = {
        uid: {"uid": uid, "name": f"Object {uid}", "license": "cc0", "user": {"username": "maker"}, "source": "here"}
        for uid in files
    }
    gz(root / "metadata/000-007.json.gz", metadata)
    return root


def named(counts: dict[Split, int]) -> dict[Split, list[str]]:
    """Uids that the hash puts into the splits as asked."""
    uids: dict[Split, list[str]] = {split: [] for split in counts}
    number = 0
    while any(len(uids[split]) < count for split, count in counts.items()):
        uid = f"made{number:03d}"
        split = split_of(uid)
        if len(uids[split]) < counts[split]:
            uids[split].append(uid)
        number += 1
    return uids


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    uids = named(COUNTS)
    listed = sorted(uid for members in uids.values() for uid in members)
    files = {uid: glb(index) for index, uid in enumerate(listed)}
    categories = {"even_slab": listed[::2], "odd_slab": listed[1::2], "single": uids["train"][:1]}
    return Tree(write_tree(tmp_path_factory.mktemp("tree"), files, categories), uids)


@pytest.fixture(scope="session")
def cache_dir(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered cache of `tree`; tests must not write into it."""
    folder = tmp_path_factory.mktemp("cache")
    ObjaverseDataModule(root=tree.root, cache_dir=folder, render_workers=1, rig=RIG).prepare_data()
    return folder
