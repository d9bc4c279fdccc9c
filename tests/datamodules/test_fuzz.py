"""The fuzzing benchmark at its smallest: through the real worker process, and what it says of wrong outcomes."""

from pathlib import Path

import pytest
from damage import fuzz

from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.readers.meshes import Asset
from ouroboros3d.datamodules.rendering.folder import RenderFolder
from ouroboros3d.datamodules.selection import BUNDLED

SOURCES = sorted(BUNDLED.rglob("*.glb"))


def test_damaged_files_end_as_one_result_each(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["--count", "6", "--seed", "4", "--workers", "1", "--timeout_s", "60", "--keep", str(tmp_path / "kept")]
    assert fuzz.main(arguments) == 0
    said = capsys.readouterr().out
    (total,) = (line for line in said.splitlines() if line.startswith("| **all** |"))
    *outcomes, all_files = (int(cell) for cell in total.strip("| ").split("|")[1:])
    assert sum(outcomes) == all_files == 6
    assert 0 < outcomes[0] < 6, "some are rendered and some refused"
    assert "0 problems of the main process" in said
    assert len(list((tmp_path / "kept/files").glob("*.glb"))) == 6
    failures = (tmp_path / "kept/renders/failures.jsonl").read_text().splitlines()
    assert len(failures) == 6 - outcomes[0]


def test_a_seed_says_which_files(tmp_path: Path) -> None:
    written = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        kinds = fuzz.write_files(tmp_path / name, SOURCES[:2], 12, seed)
        written.append((kinds, [path.read_bytes() for path in sorted((tmp_path / name).glob("*.glb"))]))
    assert written[0] == written[1]
    assert written[0] != written[2]


def test_what_should_not_happen_is_found(tmp_path: Path) -> None:
    """A file without a result, one that says it is rendered and is not, and a second run that tries again."""
    rig = OrbitRig(image_size=16, orbits=1, views=2, supersampling=1)
    renders = RenderFolder(tmp_path / "renders", rig)
    content = SOURCES[0].read_bytes()
    for uid in ("lost", "claimed"):
        (tmp_path / f"{uid}.glb").write_bytes(content)
    assets = [Asset(uid, tmp_path / f"{uid}.glb") for uid in ("lost", "claimed")]
    found = {"lost": fuzz.Outcome("bytes", ""), "claimed": fuzz.Outcome("bytes", "done")}
    problems = fuzz.wrong(renders, assets, found)
    assert problems[0] == "lost: no result"
    assert problems[1].startswith("claimed: expected ")
    assert sorted(problems[2:]) == ["claimed: tried again by a second run", "lost: tried again by a second run"]
    assert "| no result |" in fuzz.tables(found)
