"""What `check-data` found is kept for each tree, and training asks it."""

from dataclasses import replace
from pathlib import Path

import pytest

from ouroboros3d.datamodules.verdicts import Verdict, read_verdict, refusal, verdict_path, write_verdict

FAILED = Verdict(
    root="/data/renders",
    reader="lgm",
    checked_at="2026-01-02T03:04:05+00:00",
    errors=("These look like OpenGL cameras", "A black background is baked in"),
    cured=("Empty views",),
    skip={"a": "view 1 shows nothing", "b": "view 3 of 8 is missing"},
    skip_list="/out/skip_uids.txt",
    report="/out/report.html",
)
CURABLE = replace(FAILED, errors=())
PASSED = replace(CURABLE, cured=())


def test_a_verdict_is_read_as_it_was_written_by_any_path_to_its_tree(tmp_path: Path) -> None:
    tree, cache = tmp_path / "tree", tmp_path / "cache"
    tree.mkdir()
    (tmp_path / "link").symlink_to(tree)
    assert read_verdict(tree, cache) is None
    for verdict in (FAILED, CURABLE):  # the later one counts
        verdict = replace(verdict, root=str(tree.resolve()))
        write_verdict(verdict, cache)
        assert read_verdict(tree, cache) == read_verdict(tmp_path / "link", cache) == verdict
    assert read_verdict(tmp_path, cache) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"errors": [], "cured": []}', '{"errors": 1, "cured": 2}'])
def test_a_damaged_verdict_is_one_line_with_a_way_out(tmp_path: Path, content: str) -> None:
    path = verdict_path(tmp_path, tmp_path)
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"{path.name}: expected what check-data found .* remove the file") as caught:
        read_verdict(tmp_path, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_failed_tree_is_refused_whatever_is_left_out() -> None:
    text = refusal(FAILED, {"a", "b"})
    assert "/data/renders, which failed on 2026-01-02: These look like OpenGL cameras and 1 more error." in text
    for way_out in ("/out/report.html", "check-data /data/renders", "--data.ignore_check true"):
        assert way_out in text


def test_a_tree_with_objects_to_skip_is_refused_until_all_of_them_are() -> None:
    text = refusal(CURABLE, {"a"})
    assert "got 1 of /data/renders that do not, such as b: view 3 of 8 is missing." in text
    assert "--data.skip_uids /out/skip_uids.txt" in text
    assert "--data.ignore_check true" in text
    assert refusal(CURABLE, {"a", "b", "c"}) == ""


def test_a_tree_without_errors_may_be_used_though_it_has_duplicates() -> None:
    assert refusal(PASSED, set()) == ""
