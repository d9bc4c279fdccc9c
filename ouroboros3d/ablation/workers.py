"""Tasks as processes: how many at a time, on which GPU or with how many threads, and how they end."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_GRACE_S = 10.0  # a training step or a tested batch is over by then, mostly


def visible_gpus() -> list[str]:
    """The GPUs that a process may use: those of CUDA_VISIBLE_DEVICES where it is set, else all that nvidia-smi lists.

    torch would know better, but its import takes seconds and hundreds of MiB that the tasks need.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.replace(" ", "").split(",") if name not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(index) for index, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


def environments(jobs: int | None) -> list[dict[str, str]]:
    """What is set for each of the tasks that run at a time: its GPUs, and its share of the cores as OMP_NUM_THREADS.

    Args:
        jobs: tasks at a time; None = one a GPU, or without GPU one a core up to two, since two processes of one thread
            train twice as much as one of two.
    """
    gpus, cores = visible_gpus(), len(os.sched_getaffinity(0))
    jobs = jobs or len(gpus) or min(2, cores)
    common = {"PYTHONUNBUFFERED": "1", "COLUMNS": str(shutil.get_terminal_size((120, 24)).columns)}
    common["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // jobs)))
    shares = [gpus[slot::jobs] or gpus[slot % len(gpus) : slot % len(gpus) + 1] if gpus else [] for slot in range(jobs)]
    return [{**common, "CUDA_VISIBLE_DEVICES": ",".join(share)} if share else common for share in shares]


class Worker:
    """A command as a process in a session of its own, so that a Ctrl-C reaches it only through `end`.

    Args:
        arguments: after `python -m ouroboros3d`.
        environment: variables beside the inherited ones.
        log: file that its output is appended to.
        lock: descriptor that it inherits.
    """

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], log: Path, lock: int) -> None:
        self.log = log
        self.started = time.monotonic()
        with log.open("a") as file:
            self._log_start = file.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ouroboros3d", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                pass_fds=(lock,),
                start_new_session=True,
            )

    @property
    def seconds(self) -> float:
        """Seconds since the process was started."""
        return time.monotonic() - self.started

    def output(self) -> str:
        """What it has written so far."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")


def end(workers: Sequence[Worker]) -> None:
    """End processes and all that they started: politely, and after some seconds for certain."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for worker in workers:
            with suppress(ProcessLookupError):
                os.killpg(worker.process.pid, number)
        deadline = time.monotonic() + _GRACE_S
        for worker in workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
