"""Work in other processes: any may die, and none outlives its use."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from planted import Posed, write_official

from ouroboros3d.inspection.command import run
from ouroboros3d.inspection.pool import Died, in_processes


def square(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 5:
        os._exit(7)
    return number * number


def fail(number: int) -> int:
    raise LookupError(f"of {number}")


def interrupt(number: int) -> int:
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)
    return number


@pytest.mark.parametrize("workers", [1, 3])
def test_an_item_whose_process_dies_is_lost_alone(workers: int) -> None:
    expected = {number: number * number for number in range(12)}
    expected |= {3: Died("SIGKILL"), 5: Died("exit status 7")}
    assert dict(in_processes(square, range(12), workers)) == expected
    assert not multiprocessing.active_children()


def test_what_the_work_raises_is_raised_here() -> None:
    with pytest.raises(LookupError, match="of 4"):
        list(in_processes(fail, [4], 2))
    assert not multiprocessing.active_children()


def test_a_process_that_is_killed_while_it_waits_loses_nothing() -> None:
    results = in_processes(square, [0, 1, 2], 1)
    found = dict([next(results)])
    (idle,) = multiprocessing.active_children()
    os.kill(idle.pid, signal.SIGKILL)
    idle.join()
    assert found | dict(results) == {0: 0, 1: 1, 2: 4}


def test_ctrl_c_ends_every_process() -> None:
    with pytest.raises(KeyboardInterrupt):
        list(in_processes(interrupt, range(4), 1))
    assert not multiprocessing.active_children()


def test_an_interrupted_check_says_so_and_writes_nothing(
    odd: list[Posed], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_official(tmp_path / "tree", odd)

    def interrupt_once_it_reads() -> None:
        while not multiprocessing.active_children():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    folders = [f"--{name}={tmp_path / name}" for name in ("out", "cache_dir")]
    threading.Thread(target=interrupt_once_it_reads, daemon=True).start()
    with pytest.raises(SystemExit) as stopped:
        run([str(tmp_path / "tree"), "--workers=1", *folders])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "check-data: stopped; nothing was written\n"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "tree" not in path.parts]
    assert not multiprocessing.active_children()
