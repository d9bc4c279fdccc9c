"""What `check-data` found is kept for each tree as it is opened, and training asks it."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from ouroboros3d.datamodules.readers.lgm import LGMReader
from ouroboros3d.datamodules.readers.objaverse_rendering import ObjaverseRenderingReader
from ouroboros3d.datamodules.readers.ouroboros3d import Ouroboros3DReader
from ouroboros3d.datamodules.verdicts import Verdict, check_command, read_verdict, refusal, verdict_path, write_verdict
from ouroboros3d.files import default_cache_dir

FAILED = Verdict(
    root="/data/renders",
    reader="lgm",
    checked_at="2026-01-02T03:04:05+00:00",
    errors=("These look like OpenGL cameras", "A black background is baked in"),
    report="/out/report.html",
)
PASSED = replace(FAILED, errors=())
TREE, CACHE = LGMReader(Path("/data/renders")), Path("/cache")


def test_a_verdict_is_read_as_it_was_written_by_any_path_to_its_tree(tmp_path: Path) -> None:
    tree, cache = tmp_path / "tree", tmp_path / "cache"
    tree.mkdir()
    (tmp_path / "link").symlink_to(tree)
    assert read_verdict(LGMReader(tree), cache) is None
    for verdict in (FAILED, PASSED):  # the later one counts
        write_verdict(verdict, LGMReader(tree), cache)
        assert read_verdict(LGMReader(tree), cache) == read_verdict(LGMReader(tmp_path / "link"), cache) == verdict


def test_a_verdict_says_nothing_of_another_tree_or_of_one_that_is_opened_in_another_way(tmp_path: Path) -> None:
    for name in ("a/renders", "b/renders"):
        (tmp_path / name).mkdir(parents=True)
    write_verdict(FAILED, LGMReader(tmp_path / "a/renders"), tmp_path)
    assert read_verdict(LGMReader(tmp_path / "a/renders", LGMReader.promised_views), tmp_path) == FAILED
    for other in (
        LGMReader(tmp_path / "b/renders"),
        LGMReader(tmp_path / "a/renders", 7),
        Ouroboros3DReader(tmp_path / "a/renders"),
    ):
        assert read_verdict(other, tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"errors": []}', '{"errors": 1}'])
def test_a_damaged_verdict_is_one_line_with_a_way_out(tmp_path: Path, content: str) -> None:
    path = verdict_path(LGMReader(tmp_path), tmp_path)
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"{path.name}: expected what check-data found .* remove the file") as caught:
        read_verdict(LGMReader(tmp_path), tmp_path)
    assert "\n" not in str(caught.value)


def test_the_command_repeats_the_options_in_use() -> None:
    check = "python -m ouroboros3d check-data"
    assert check_command(TREE, default_cache_dir()) == f"{check} /data/renders --reader lgm"
    tree = ObjaverseRenderingReader(Path("my renders"), 4, assume_rig=True)
    assert shlex.split(check_command(tree, CACHE)) == [
        *shlex.split(check),
        *("my renders", "--reader", "objaverse_rendering", "--views_per_object", "4", "--assume_rig"),
        *("--cache_dir", "/cache"),
    ]


def test_a_failed_tree_is_refused_and_one_that_passed_is_not() -> None:
    text = refusal(FAILED, TREE, CACHE)
    assert "/data/renders, which failed on 2026-01-02: These look like OpenGL cameras and 1 more error." in text
    for way_out in ("/out/report.html", check_command(TREE, CACHE), "--data.ignore_check true"):
        assert way_out in text
    assert refusal(PASSED, TREE, CACHE) == ""
