"""Signals and the processes that load data: a run that is told to stop still has them for its last step."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# What asks a run to stop: the terminal's Ctrl-C and its end, and schedulers, which send theirs to every process.
_ASK_TO_STOP = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started inside do not hear what asks a run to stop: the one that trains does, and ends them.

    A worker that ends by itself takes the run with it, in the middle of a step and without a checkpoint. They are deaf
    from their first moment on, because they begin with the signals blocked that are blocked here.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ASK_TO_STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # what came meanwhile comes now


def heed_the_parent(worker: int) -> None:
    """Let a worker end on SIGTERM of its own parent, which a loader sends where a worker does not end otherwise."""
    threading.Thread(target=_wait_for_the_parent, daemon=True).start()


def _wait_for_the_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
