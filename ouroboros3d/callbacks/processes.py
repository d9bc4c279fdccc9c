"""Who else works on a run, and one clear line where one of them ends before the others."""

import os
import signal
import subprocess
import sys
import threading
import time

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from ouroboros3d.callbacks.checkpoints import how_to_go_on

_POLL_S = 0.5
_GRACE_S = 5.0  # a process that can still speak for itself, of an error of its own or of the lost connection, does


def is_first_process() -> bool:
    """Whether this process is the one that makes a run's folder: of all that torchrun, Slurm or Lightning start."""
    for variable in ("RANK", "SLURM_PROCID"):
        if variable in os.environ:
            return os.environ[variable] == "0"
    return all(os.environ.get(variable, "0") == "0" for variable in ("LOCAL_RANK", "NODE_RANK"))


def lost_a_process(error: RuntimeError) -> bool:
    """Whether an error says that another process of the run cannot be reached."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


class ProcessWatch(Callback):
    """End with one line where another process of this machine was killed.

    Lightning's own observer kills the first process too, without a word, and nothing watches the first one: what waits
    for it in a collective of NCCL waits for half an hour. Where torchrun or Slurm start the processes, they do that.
    """

    def __init__(self) -> None:
        self._run: str | None = None
        self._finished = threading.Event()
        self._others: list[subprocess.Popen[bytes]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to watch, once all processes are there."""
        self._run = trainer.log_dir if stage == "fit" else None
        launcher = trainer.strategy.launcher
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if isinstance(launcher, _SubprocessScriptLauncher):
            self._others = list(launcher.procs)
            launcher.procs.clear()  # Lightning's observer looks into the same list
            launcher.procs = self._others
        if self._others or (isinstance(environment, LightningEnvironment) and trainer.world_size > 1):
            threading.Thread(target=self._watch, args=(os.getppid(),), daemon=True).start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Watch no more."""
        self._finished.set()

    def explain(self, wait_s: float = _GRACE_S) -> str:
        """What ended, as far as this process can see, and how to go on."""
        until = time.monotonic() + wait_s
        while not (dead := self._dead()) and self._others and time.monotonic() < until:
            time.sleep(_POLL_S)
        what = dead or "another process of this run ended; its own message, or its launcher's, says why"
        return f"processes: {what}." + (f" Go on with: {how_to_go_on(self._run)}" if self._run else "")

    def _dead(self) -> str | None:
        for rank, process in enumerate(self._others, 1):
            if code := process.poll():
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
                return f"process {rank} of this machine (pid {process.pid}) {how}"
        return None

    def _watch(self, parent: int) -> None:
        """Wait for the end of another process, and end this one where it does not do so itself."""
        while not self._dead() and (self._others or os.getppid() == parent):
            if self._finished.wait(_POLL_S):
                return
        if self._finished.wait(_GRACE_S):
            return
        print(f"ouroboros3d: error: {self.explain(wait_s=0)}", file=sys.stderr, flush=True)
        for process in self._others:
            process.kill()
        os._exit(1)  # the main thread may wait in a collective that nobody answers
