"""Work in processes of which any may die, or be ended for what it takes: its item is lost, the others go on."""

import errno
import resource
import signal
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from itertools import islice
from multiprocessing import Pipe, Process, parent_process
from multiprocessing.connection import Connection, wait
from typing import Generic, TypeVar

from ouroboros3d.datamodules.rendering.process import DEFAULT_MEMORY_MIB
from ouroboros3d.datamodules.untrusted import allocated_bytes, no_memory

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Died:
    """In place of a result: the process that worked on the item ended, or had no memory left for it.

    Args:
        how: by which signal, with which exit status, or beyond which limit.
    """

    how: str


@dataclass(frozen=True)
class _Raised:
    error: Exception


class _Worker(Generic[Item, Result]):
    """One process; it ends with this one, whatever ends that."""

    def __init__(self, work: Callable[[Item], Result], timeout_s: float, memory_mib: int) -> None:
        self.connection, theirs = Pipe()
        self._timeout_s = timeout_s
        arguments = (work, theirs, self.connection, timeout_s, memory_mib)
        self._process = Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def takes(self, item: Item) -> bool:
        try:
            self.connection.send(item)
        except BrokenPipeError:
            return False
        return True

    def result(self) -> Result | Died:
        try:
            answer: Result | Died | _Raised = self.connection.recv()
        except (EOFError, OSError):  # before it answered, or within its answer
            self._process.join()
            code = self._process.exitcode or 0
            if code == -signal.SIGALRM:
                return Died(f"took longer than {self._timeout_s:g} s")
            return Died(signal.Signals(-code).name if code < 0 else f"exit status {code}")
        if isinstance(answer, _Raised):
            raise answer.error
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def in_processes(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    timeout_s: float = 600.0,
    memory_mib: int = DEFAULT_MEMORY_MIB,
) -> Generator[tuple[Item, Result | Died], None, None]:
    """Do the same with many items; to close this ends the processes.

    Args:
        work: called with each item in one of the processes.
        items: of any kind that can be pickled, as results can.
        workers: processes at a time.
        timeout_s: of an item; a process that takes longer ends.
        memory_mib: MiB that a process may allocate.

    Yields:
        items with their results as they come, in no order; with `Died` where the process ended at it.

    Raises:
        Exception: what the work raised.
    """
    left = iter(items)
    busy: dict[Connection, tuple[_Worker[Item, Result], Item]] = {}
    idle: list[_Worker[Item, Result]] = []
    try:
        while True:
            for item in islice(left, workers - len(busy)):
                while not (worker := idle.pop() if idle else _Worker(work, timeout_s, memory_mib)).takes(item):
                    worker.end()  # it was killed while it waited
                busy[worker.connection] = worker, item
            if not busy:
                return
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                worker, item = busy[connection]
                result = worker.result()
                del busy[connection]
                if isinstance(result, Died):
                    worker.end()
                else:
                    idle.append(worker)
                yield item, result
    finally:
        for worker in (*idle, *(worker for worker, _ in busy.values())):
            worker.end()


def _serve(
    work: Callable[[Item], Result], connection: Connection, parents: Connection, timeout_s: float, memory_mib: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    parents.close()  # a forked process holds both ends, and the parent's memory
    limit = allocated_bytes() + memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    parent = parent_process()
    assert parent is not None
    while connection in wait([connection, parent.sentinel]):
        try:
            item = connection.recv()
        except EOFError:
            return
        # Without a Python handler the alarm ends the process even inside native code that never returns.
        signal.setitimer(signal.ITIMER_REAL, timeout_s)
        try:
            answer: Result | Died | _Raised = work(item)
        except Exception as error:  # noqa: BLE001 - raised again where the results are asked for
            answer = Died(f"needed more than {memory_mib} MiB") if _no_memory(error) else _Raised(error)
        connection.send(answer)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _no_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it was made of, says that no more memory was given."""
    if error is None:
        return False
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return refused or no_memory(error) or _no_memory(error.__cause__)
