"""Work in processes of which any may die: its item is lost, the others go on."""

import signal
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from itertools import islice
from multiprocessing import Pipe, Process, parent_process
from multiprocessing.connection import Connection, wait
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Died:
    """In place of a result: the process that worked on the item ended.

    Args:
        how: by which signal, or with which exit status.
    """

    how: str


@dataclass(frozen=True)
class _Raised:
    error: Exception


class _Worker(Generic[Item, Result]):
    """One process; it ends with this one, whatever ends that."""

    def __init__(self, work: Callable[[Item], Result]) -> None:
        self.connection, theirs = Pipe()
        self._process = Process(target=_serve, args=(work, theirs, self.connection), daemon=True)
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
            answer: Result | _Raised = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode or 0
            return Died(signal.Signals(-code).name if code < 0 else f"exit status {code}")
        if isinstance(answer, _Raised):
            raise answer.error
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def in_processes(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Generator[tuple[Item, Result | Died], None, None]:
    """Do the same with many items; to close this ends the processes.

    Args:
        work: called with each item in one of the processes.
        items: of any kind that can be pickled, as results can.
        workers: processes at a time.

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
                while not (worker := idle.pop() if idle else _Worker(work)).takes(item):
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


def _serve(work: Callable[[Item], Result], connection: Connection, parents: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers
    parents.close()  # a forked process holds both ends
    parent = parent_process()
    assert parent is not None
    while connection in wait([connection, parent.sentinel]):
        try:
            item = connection.recv()
        except EOFError:
            return
        try:
            answer: Result | _Raised = work(item)
        except Exception as error:  # noqa: BLE001 - raised again where the results are asked for
            answer = _Raised(error)
        connection.send(answer)
