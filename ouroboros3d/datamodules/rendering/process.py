"""A rendering process on this machine."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from ouroboros3d.datamodules.rendering.jobs import RenderJob, RenderResult

# What one object may use; a desk-scale object needs well under 1 GiB.
DEFAULT_MEMORY_MIB = 6144


class RenderProcess:
    """One process of `rendering.worker`, started when first needed and again after a crash.

    Args:
        memory_mib: MiB that the process may allocate, and on a GPU as many there.
        device: that it renders on: `cpu`, `cuda` or `cuda:N`.
    """

    def __init__(self, memory_mib: int = DEFAULT_MEMORY_MIB, device: str = "cpu") -> None:
        self._memory_mib = memory_mib
        self._device = device
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[bytes] | None = None
        self.closed = False

    def run(self, job: RenderJob) -> RenderResult:
        """Render one object.

        Raises:
            ValueError: the process does not start at all.
        """
        if self._process is None:
            self._start()
        line = self._exchange(job.to_json() + "\n")
        if line:
            return RenderResult.from_json(line)
        status, tail = self._reap()
        if status == -signal.SIGALRM:
            return RenderResult("timeout", f"took longer than {job.timeout_s:g} s")
        died = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return RenderResult("crash", f"the rendering process died ({died}) {tail}".strip())

    def kill(self) -> None:
        """End the process, whatever it is doing; the object it works on counts as not tried."""
        self.closed = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the idle process and free its pipes."""
        self.kill()
        if self._process is not None:
            self._reap()

    def _start(self) -> None:
        package_parent = str(Path(__file__).resolve().parents[3])
        path = os.pathsep.join(filter(None, (package_parent, os.environ.get("PYTHONPATH", ""))))
        # One thread per worker: the same pixels wherever they are rendered.
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        if self._device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ouroboros3d.datamodules.rendering.worker", str(self._memory_mib), self._device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
        )
        if not self._exchange(""):
            status, tail = self._reap()
            raise ValueError(
                f"expected a rendering process that starts on {self._device} with {self._memory_mib} MiB, got exit "
                f"status {status}: {tail}"
            )

    def _exchange(self, text: str) -> str:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return ""
        try:
            process.stdin.write(text)
            process.stdin.flush()
        except BrokenPipeError:
            return ""
        line = process.stdout.readline()
        return line if line.endswith("\n") else ""

    def _reap(self) -> tuple[int, str]:
        process, errors = self._process, self._errors
        self._process = self._errors = None
        assert process is not None
        assert errors is not None
        status = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
        errors.close()
        return status, lines[-1][:300] if lines else ""
