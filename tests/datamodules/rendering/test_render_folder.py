"""What a folder of renders holds, told from its list and one listing: as a look at every file would tell it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.meshes import Asset
from ouroboros3d.datamodules.readers.ouroboros3d import Ouroboros3DReader
from ouroboros3d.datamodules.rendering.entries import Entry
from ouroboros3d.datamodules.rendering.folder import RenderFolder
from ouroboros3d.files import sha256_of

UIDS = ["a", "b", 'quoted"', "slash\\", "ключ"]
RIG = OrbitRig(8, 2, 4)


class Made:
    """A folder as `render` leaves it, but for the views, and its meshes."""

    def __init__(self, root: Path) -> None:
        self.renders = RenderFolder(root / "renders", RIG)
        self.index = self.renders.folder / "index.jsonl"
        self.failures = self.renders.folder / "failures.jsonl"
        (root / "meshes").mkdir()
        self.assets = [Asset(uid, root / "meshes" / f"{number}.glb") for number, uid in enumerate([*UIDS, "broken"])]
        for asset in self.assets:
            asset.path.write_text(f"mesh of {asset.uid}")
            stat = asset.path.stat()
            entry = Entry(asset.uid, sha256_of(asset.path), stat.st_size, stat.st_mtime_ns)
            if asset.uid == "broken":
                entry = entry._replace(stage="load", error='no mesh, "stage": "done"}')
                self.renders._append("failures.jsonl", entry)
                continue
            for folder in self.renders.orbit_folders(asset.uid):
                folder.mkdir()
                (folder / "meta.json").write_text("{}")
            self.renders._append("index.jsonl", entry)

    def orbit(self, uid: str, orbit: int) -> Path:
        return self.renders.orbit_folders(uid)[orbit]

    def mesh(self, uid: str) -> Path:
        return next(asset.path for asset in self.assets if asset.uid == uid)

    def rewrite(self, change: Callable[[list[str]], str]) -> None:
        self.index.write_text(change(self.index.read_text().splitlines()))


def every_line(path: Path) -> dict[str, Entry]:
    """The list, a line after another."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[entry.uid] = entry
    return found


def same(path: Path, entry: Entry) -> bool:
    if not path.is_file():
        return not entry.sha256
    return sha256_of(path) == entry.sha256


def every_file(made: Made) -> list[str]:
    """The complete objects, by reading every file that matters."""
    entries = every_line(made.index)
    return [
        asset.uid
        for asset in made.assets
        if asset.uid in entries
        and same(asset.path, entries[asset.uid])
        and all((folder / "meta.json").is_file() for folder in made.renders.orbit_folders(asset.uid))
    ]


def every_failure(made: Made) -> dict[str, Entry]:
    entries, rendered = every_line(made.failures), every_file(made)
    return {
        asset.uid: entries[asset.uid]
        for asset in made.assets
        if asset.uid in entries and same(asset.path, entries[asset.uid]) and asset.uid not in rendered
    }


def nothing(made: Made) -> None:
    pass


def other_mesh_of_the_same_size(made: Made) -> None:
    made.mesh("b").write_text("mesh of c")
    os.utime(made.mesh("b"), (1, 1))


def other_mesh_of_another_size(made: Made) -> None:
    made.mesh("b").write_text("another mesh of b")


def mesh_that_was_only_touched(made: Made) -> None:
    os.utime(made.mesh("b"), (1, 1))


def no_mesh(made: Made) -> None:
    made.mesh("b").unlink()
    made.mesh("broken").unlink()


def folder_in_place_of_a_mesh(made: Made) -> None:
    made.mesh("b").unlink()
    made.mesh("b").mkdir()


def no_second_orbit(made: Made) -> None:
    shutil.rmtree(made.orbit("b", 1))


def orbit_that_is_being_written(made: Made) -> None:
    made.orbit("b", 0).rename(made.renders.folder / ".b-00.x.part")


def no_list(made: Made) -> None:
    made.index.unlink()


def last_line_is_half(made: Made) -> None:
    made.rewrite(lambda lines: "\n".join([*lines[:-1], lines[-1][:-20]]))


def half_line_inside(made: Made) -> None:
    made.rewrite(lambda lines: "\n".join([lines[0], lines[1][:-1], *lines[2:], ""]))


def cut_in_the_name(made: Made) -> None:
    made.rewrite(lambda lines: "\n".join([lines[0], lines[1][:9], *lines[2:]]))


def no_entries_inside(made: Made) -> None:
    strangers = ["", "{}", "[1, 2]", "null", '{"uid": 5}', '{"uid": ["a"]}', '{"uid": "b"}', "\x00" * 30]
    made.rewrite(lambda lines: "\n".join([*strangers, *lines[:1], *lines[2:]]))


def rendered_again_from_another_mesh(made: Made) -> None:
    made.renders._append("index.jsonl", Entry("b", "0" * 64, 9, 5))


def failed_again_from_this_mesh(made: Made) -> None:
    entry = every_line(made.failures)["broken"]
    made.renders._append("failures.jsonl", entry._replace(error="{another reason}"))


def failure_is_half(made: Made) -> None:
    line = made.failures.read_text()
    made.failures.write_text(line[: line.index("done") + 6] + "}")


def another_mesh_of_the_broken(made: Made) -> None:
    made.mesh("broken").write_text("mended")


DAMAGES = [
    nothing,
    other_mesh_of_the_same_size,
    other_mesh_of_another_size,
    mesh_that_was_only_touched,
    no_mesh,
    folder_in_place_of_a_mesh,
    no_second_orbit,
    orbit_that_is_being_written,
    no_list,
    last_line_is_half,
    half_line_inside,
    cut_in_the_name,
    no_entries_inside,
    rendered_again_from_another_mesh,
    failed_again_from_this_mesh,
    failure_is_half,
    another_mesh_of_the_broken,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_list_and_a_listing_say_what_every_file_says(damage: Callable[[Made], None], tmp_path: Path) -> None:
    made = Made(tmp_path)
    renders = made.renders
    assert [asset.uid for asset in renders.complete(made.assets)] == UIDS, "read before, and again after the damage"
    assert list(renders.failures(made.assets)) == ["broken"]
    damage(made)
    complete, failures = every_file(made), every_failure(made)
    assert [asset.uid for asset in renders.complete(made.assets)] == complete
    assert renders.failures(made.assets) == failures
    assert [asset.uid for asset in renders.missing(made.assets)] == [
        asset.uid for asset in made.assets if asset.uid not in complete and asset.uid not in failures
    ]
    assert dict(renders.read_list("index.jsonl")) == every_line(made.index)
    assert len(renders.read_list("failures.jsonl")) == len(every_line(made.failures))
    harmless = damage in (nothing, mesh_that_was_only_touched)
    assert (complete == UIDS and list(failures) == ["broken"]) == (harmless or damage is failed_again_from_this_mesh)


def test_what_is_lost_inside_a_folder_is_rendered_again_and_named_by_who_reads_it(tmp_path: Path) -> None:
    """A listing cannot see it, and nobody who renders relies on the listing alone."""
    made = Made(tmp_path)
    (made.orbit("b", 1) / "meta.json").unlink()
    assert [asset.uid for asset in made.renders.complete(made.assets)] == UIDS
    assert not made.renders.holds("b")
    assert [asset.uid for asset in made.renders.missing(made.assets)] == ["b"]
    (made.orbit("a", 0) / "meta.json").unlink()
    with pytest.raises(SampleError, match=r"a: expected .*a-00/meta\.json, got .*No such file or directory"):
        Ouroboros3DReader(made.renders.folder).read("a")


def test_true_geometry_and_failures_at_it_are_asked_for_by_their_points(tmp_path: Path) -> None:
    made = Made(tmp_path)
    a, b, *_ = made.assets
    (made.orbit("a", 0) / "surface_50.npz").touch()
    stat = b.path.stat()
    entry = Entry("b", sha256_of(b.path), stat.st_size, stat.st_mtime_ns, "timeout", "slow", 50)
    made.renders._append("failures.jsonl", entry)
    assert made.renders.complete([a, b], 50) == [a]
    assert made.renders.complete([a, b], 51) == []
    assert made.renders.failures([a, b]) == {}
    assert made.renders.failures([a, b], 50) == {"b": entry}
    assert made.renders.missing([a, b], surface_points=50) == []
    assert made.renders.missing([a, b], surface_points=50, retry_failed=True) == [b]
    assert made.renders.missing([a, b], surface_points=51) == [a, b]
