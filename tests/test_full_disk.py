"""A full disk is one line that names the file: /dev/full answers every write as such a disk does."""

import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from ouroboros3d.callbacks.journal import Journal
from ouroboros3d.commands.trainer import report_thread
from ouroboros3d.comparison.folder import replaced
from ouroboros3d.files import append_line, atomic_folder, atomic_write, naming

FULL = Path("/dev/full")


def a_file(path: Path) -> None:
    with atomic_write(path) as part:
        part.symlink_to(FULL)
        part.write_text("text")


def a_folder(path: Path) -> None:
    with atomic_folder(path) as folder:
        (folder / "inner.txt").symlink_to(FULL)
        (folder / "inner.txt").write_text("text")


def a_comparison(path: Path) -> None:
    with replaced(path) as folder:
        (folder / "comparison.md").symlink_to(FULL)
        (folder / "comparison.md").write_text("text")


def a_line(path: Path) -> None:
    path.symlink_to(FULL)
    append_line(path, "text")


def a_row(path: Path) -> None:
    path.symlink_to(FULL)
    journal = Journal(path.parent, path.name.partition(".")[0], "a test")
    with pytest.raises(OSError, match=str(path)):
        journal.append(0, {"uid": "a"})
    journal.close()


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (a_file, "a.txt"),
        (a_folder, "export"),
        (a_comparison, "comparison"),
        (a_line, "list.jsonl"),
        (a_row, "results.0.jsonl.part"),
    ],
)
def test_what_found_no_room_is_named(write: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as raised:
        write(tmp_path / name)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / name))
    assert not [path for path in tmp_path.iterdir() if not path.is_symlink()], "nothing is left behind"


def test_other_errors_and_names_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, naming(tmp_path):
        (tmp_path / "nowhere").read_text()
    assert raised.value.filename == str(tmp_path / "nowhere")
    with pytest.raises(OSError, match="No space left") as raised, naming(tmp_path), naming(tmp_path / "inner"):
        FULL.write_text("text")
    assert raised.value.filename == str(tmp_path / "inner")


def test_the_thread_of_events_says_nothing_of_what_its_writer_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threading, "excepthook", report_thread)
    writer = EventFileWriter(str(tmp_path))
    with FULL.open("wb", buffering=0) as full:
        writer._async_writer._writer._writer = full
        writer._async_writer._byte_queue.put(b"an event")
        writer._async_writer._worker.join(timeout=60)
    with pytest.raises(OSError, match="No space left on device"):
        writer.flush()
    assert capsys.readouterr().err == ""
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    assert "ZeroDivisionError" in capsys.readouterr().err
