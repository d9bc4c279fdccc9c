"""Loader workers hear their parent, and nobody else."""

import os
import signal
import time
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from ouroboros3d.datamodules.loader_workers import deaf_children, heed_the_parent


class Slow(Dataset[int]):
    """Its second item takes for ever."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        if index:
            time.sleep(600)
        return os.getpid()


def blocked(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("SigBlk")).split()[1], 16)


def test_a_worker_ends_when_its_parent_says_so_alone() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with deaf_children():
        loader = iter(DataLoader(Slow(), num_workers=1, batch_size=None, worker_init_fn=heed_the_parent))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    pid = int(next(loader))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        assert blocked(pid) & (1 << (number - 1)), number
        if stranger := os.fork():
            assert os.waitpid(stranger, 0)[1] == 0
        else:
            os.kill(pid, number)
            os._exit(0)
    time.sleep(0.3)
    (worker,) = loader._workers  # type: ignore[attr-defined] # of torch's loader
    assert worker.is_alive()
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0


def test_a_process_that_is_not_started_there_hears_as_ever() -> None:
    with deaf_children():
        pass
    child = os.fork()
    if not child:
        time.sleep(600)
    assert not blocked(child)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
