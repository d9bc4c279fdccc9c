"""Rows of an interrupted test survive, and only in a test that would measure the same."""

import os
from pathlib import Path

import pytest

from ouroboros3d.callbacks.journal import Journal


def entry(uid: str) -> dict[str, object]:
    return {"row": {"uid": uid, "psnr": 12.5}}


def test_rows_of_all_processes_are_read_but_not_of_another_test(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "results", "one")
    journal.append(0, entry("a"))
    journal.append(0, entry("b"))
    other_rank = Journal(tmp_path, "results", "one")
    other_rank.append(1, entry("c"))
    assert sorted(e["row"]["uid"] for e in Journal(tmp_path, "results", "one").read()) == ["a", "b", "c"]
    assert Journal(tmp_path, "results", "two").read() == []
    assert Journal(tmp_path, "results_train", "one").read() == []


def test_a_line_that_a_killed_writer_left_open_does_not_count(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "results", "one")
    journal.append(0, entry("a"))
    journal.append(0, entry("b"))
    path = tmp_path / "results.0.jsonl.part"
    os.truncate(path, path.stat().st_size - 5)
    assert Journal(tmp_path, "results", "one").read() == [entry("a")]
    path.write_bytes(path.read_bytes() + b"\0\0\n")
    assert Journal(tmp_path, "results", "one").read() == [entry("a")]
    path.write_bytes(b"")
    assert Journal(tmp_path, "results", "one").read() == []
    assert Journal(tmp_path, "results", "one").is_of_another_test()


def test_a_restart_keeps_what_it_was_given_and_nothing_else(tmp_path: Path) -> None:
    old = Journal(tmp_path, "results", "old")
    old.append(0, entry("z"))
    journal = Journal(tmp_path, "results", "one")
    journal.restart([entry("a")])
    journal.append(0, entry("b"))
    assert Journal(tmp_path, "results", "old").read() == []
    assert sorted(e["row"]["uid"] for e in Journal(tmp_path, "results", "one").read()) == ["a", "b"]
    journal.remove()
    assert not list(tmp_path.glob("*.part"))


def test_one_test_of_a_run_at_a_time(tmp_path: Path) -> None:
    first = Journal(tmp_path, "results", "one")
    first.lock()
    with pytest.raises(ValueError, match="got one that is running"):
        Journal(tmp_path, "results", "one").lock()
    Journal(tmp_path, "results_train", "one").lock()
    del first
    Journal(tmp_path, "results", "one").lock()
