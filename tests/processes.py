"""Commands in processes of their own that start at once: forked from a server that has imported the package already."""

import multiprocessing
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_HEAVY = ["ouroboros3d.commands.trainer", "ouroboros3d.commands.ablate", "ouroboros3d.commands.compare"]
START_METHOD = "forkserver"
_context = multiprocessing.get_context(START_METHOD)
_context.set_forkserver_preload(_HEAVY)


class Command:
    """`python -m ouroboros3d ARGUMENTS` in the current folder and environment, in a process of its own.

    Args:
        arguments: of `main`.
        before: called first in that process, for example to let it kill itself later; of a module's top level.
        environment: more variables.
    """

    def __init__(
        self, *arguments: str, before: Callable[[], object] | None = None, environment: Mapping[str, str] = {}
    ) -> None:
        self._printed = Path(tempfile.mkstemp(prefix="printed")[1])
        variables = {**os.environ, **environment}
        self.process = _context.Process(
            target=_run, args=(arguments, before, os.getcwd(), variables, str(self._printed))
        )
        self.process.start()

    def wait(self, timeout: float = 300) -> int:
        """The exit code, negative for a signal."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"expected an end within {timeout} s, got\n{self.printed}"
        return self.process.exitcode

    @property
    def printed(self) -> str:
        """Standard output and error so far."""
        return self._printed.read_text()


def ranks(*arguments: str, count: int = 2, before: Callable[[], object] | None = None) -> list[Command]:
    """The same command in `count` processes that find each other, as a launcher starts them on one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return [
        Command(*arguments, before=before, environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]


def _run(arguments: Any, before: Any, folder: str, variables: dict[str, str], printed: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    file = os.open(printed, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["ouroboros3d", *arguments]
    from ouroboros3d.cli import main

    try:
        if before is not None:
            before()
        main(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
