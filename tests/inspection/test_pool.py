"""Work in other processes: any may die or take too much, and none outlives its use."""

import inspect
import multiprocessing
import os
import signal
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import Posed, write_official

from ouroboros3d.commands.check_data import run
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


def wait_at_3(number: int) -> int:
    if number == 3:
        time.sleep(60)
    return number


def fill(number: int) -> int:
    if number == 0:
        np.ones(2**30)
    if number == 1:
        torch.ones(2**30)
    return number


def die_within_the_answer(number: int) -> int:
    caller = inspect.currentframe().f_back  # type: ignore[union-attr]
    connection = caller.f_locals["connection"]  # type: ignore[union-attr]
    os.write(connection.fileno(), struct.pack("!i", 1000) + b"half")
    os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [1, 3])
def test_an_item_whose_process_dies_is_lost_alone(workers: int) -> None:
    expected = {number: number * number for number in range(12)}
    expected |= {3: Died("SIGKILL"), 5: Died("exit status 7")}
    assert dict(in_processes(square, range(12), workers)) == expected
    assert not multiprocessing.active_children()


def test_what_takes_too_long_is_lost_alone() -> None:
    found = dict(in_processes(wait_at_3, range(5), 2, timeout_s=0.5))
    assert found == {0: 0, 1: 1, 2: 2, 3: Died("took longer than 0.5 s"), 4: 4}


def test_what_needs_too_much_memory_is_lost_alone() -> None:
    found = dict(in_processes(fill, range(3), 1, memory_mib=1024))
    assert found == {0: Died("needed more than 1024 MiB"), 1: Died("needed more than 1024 MiB"), 2: 2}


def test_a_process_that_dies_within_its_answer_has_died() -> None:
    assert dict(in_processes(die_within_the_answer, [0], 1)) == {0: Died("SIGKILL")}


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
