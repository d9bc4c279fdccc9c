"""Running the tasks of a suite: what is due, what goes on, what failed, and what the user reads meanwhile."""

import shlex
import shutil
import time
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table

from ouroboros3d.ablation.manifest import Manifest
from ouroboros3d.ablation.tasks import Task
from ouroboros3d.ablation.workers import Worker, end
from ouroboros3d.files import git_commit

_TAIL = 5  # lines of a failed task's log that are shown


class Execution:
    """Brings every task to its end, several at a time.

    A task that is done is left alone while its outputs are there and nothing that it needs was done again; one that was
    interrupted or failed goes on in its own folder.

    Args:
        tasks: each after those that it needs.
        manifest: of the suite.
        environments: of the tasks that run at a time, one each.

    Raises:
        ValueError: a folder that a task would make exists, and is not the suite's.
    """

    def __init__(self, tasks: Sequence[Task], manifest: Manifest, environments: Sequence[dict[str, str]]) -> None:
        self.tasks = tasks
        self.manifest = manifest
        self.environments = environments
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}  # what a task ended with
        self._running: dict[int, tuple[Task, Worker]] = {}  # by the environment's index
        self._started = time.monotonic()
        for task in tasks:
            entry = manifest.entry(task.name)
            foreign = task.makes_run and "started" not in entry and task.run.exists()
            if foreign:
                raise ValueError(
                    f"{task.name}: expected no run at {task.run}, got one that this suite did not make; choose another "
                    "--runs, or move it."
                )
            same = task.kind != "compare" or entry.get("command") == shlex.join(task.arguments)
            if entry["state"] == "done" and same and self.done.issuperset(task.after) and task.is_complete():
                self.done.add(task.name)
            elif entry["state"] != "interrupted":
                entry["state"] = "pending"

    def seconds_left(self) -> float | None:
        """What the tasks that are due should take one after the other, or None where the suite does not say.

        By the suite's own numbers, and as much faster or slower as the tasks that are done were here.
        """
        known = [task for task in self.tasks if task.seconds]
        if not known:
            return None
        took = {task.name: self.manifest.entry(task.name).get("seconds") for task in known if task.name in self.done}
        here = sum(seconds for seconds in took.values() if seconds)
        there = sum(task.seconds or 0.0 for task in known if took.get(task.name))
        pace = here / there if there else 1.0
        return pace * sum(task.seconds or 0.0 for task in known if task.name not in self.done)

    def run(self, stop: Sequence[int]) -> None:
        """Work until nothing is due, or until `stop`, which a signal handler fills, is not empty."""
        if self.done:
            print(f"ablate: {len(self.done)} of {len(self.tasks)} tasks were done before", flush=True)
        if left := self.seconds_left():
            hours = f"{left / 3600:.1f} hours" if left >= 3600 else duration(left)
            print(f"ablate: expects about {hours} of work, {len(self.environments)} tasks at a time", flush=True)
        try:
            while not stop:
                self._collect()
                self._start()
                if not self._running:
                    return
                time.sleep(0.1)
        finally:
            end([worker for _, worker in self._running.values()])
            for task, worker in self._running.values():
                self._note(task, worker, "interrupted")

    def _start(self) -> None:
        """Start what is due in the environments that are free."""
        busy = {task.name for task, _ in self._running.values()}
        due = [
            task
            for task in self.tasks
            if self.done.issuperset(task.after) and task.name not in {*self.done, *self.failed, *busy}
        ]
        free = [index for index in range(len(self.environments)) if index not in self._running]
        for index, task in zip(free, due, strict=False):
            self._start_one(index, task)

    def _start_one(self, index: int, task: Task) -> None:
        entry = self.manifest.entry(task.name)
        before = "started" in entry
        if before and task.makes_run and not (task.run / "config.yaml").is_file():
            shutil.rmtree(task.run, ignore_errors=True)  # stopped before it had a configuration: there is nothing in it
        command = task.command(before)
        # Sums depend on the number of threads in their last bits: a run goes on with those that it began with.
        environment = {**self.environments[index], **entry.get("environment", {})}
        entry.pop("exit_code", None)
        entry.update(
            state="running",
            command=shlex.join(command),
            run=str(task.run),
            log=str(self.manifest.logs / f"{task.name}.log"),
            git_commit=git_commit(),
            environment={"OMP_NUM_THREADS": environment["OMP_NUM_THREADS"]},
            started=datetime.now().astimezone().isoformat(timespec="seconds"),
        )
        self.manifest.save()  # before the task makes its folder, which is known as the suite's own by this
        log = self.manifest.logs / f"{task.name}.log"
        worker = Worker(command, environment, log, self.manifest.lock.fileno())
        self._running[index] = task, worker
        entry["pid"] = worker.process.pid
        self.manifest.save()
        _say(f"{'goes on' if before else 'started'} {task.name}, log {log}")

    def _collect(self) -> None:
        """Take note of tasks that have ended."""
        for index, (task, worker) in list(self._running.items()):
            code = worker.process.poll()
            if code is None:
                continue
            del self._running[index]
            if code == 0 and task.is_complete():
                self.done.add(task.name)
                self._note(task, worker, "done")
            else:
                self.failed[task.name] = f"exit code {code}" if code else "nothing left behind"
                self._note(task, worker, "failed")
            if task.kind == "compare" and not code:
                print(worker.output(), flush=True)

    def _note(self, task: Task, worker: Worker, state: str) -> None:
        entry = self.manifest.entry(task.name)
        entry.pop("pid", None)
        entry.update(state=state, exit_code=worker.process.returncode)
        entry["seconds"] = round(entry.get("seconds", 0.0) + worker.seconds, 1)
        self.manifest.save()
        left = len(self.tasks) - len(self.done)
        _say(
            f"{state} {task.name} after {duration(worker.seconds)}; {duration(time.monotonic() - self._started)} so "
            f"far, {left} of {len(self.tasks)} tasks left"
        )
        if state == "failed":
            lines = [line for line in worker.output().splitlines() if line.strip()][-_TAIL:]
            print("".join(f"    {line}\n" for line in lines), end="", flush=True)

    def summary(self) -> None:
        """Print each task's state and its time over all attempts, and where the logs are."""
        title, logs = f"{len(self.done)} of {len(self.tasks)} tasks done", f"logs: {self.manifest.logs}/TASK.log"
        table = Table(title=title, caption=logs, caption_justify="left")
        table.add_column("task", no_wrap=True)
        table.add_column("state")
        table.add_column("time", justify="right", no_wrap=True)
        for task in self.tasks:
            entry = self.manifest.entry(task.name)
            state = f"failed, {self.failed[task.name]}" if task.name in self.failed else entry["state"]
            seconds = duration(entry["seconds"]) if "seconds" in entry else "-"
            table.add_row(task.name, state, seconds)
        Console(highlight=False, markup=False).print(table)


def duration(seconds: float) -> str:
    """A time as it is read: 8.2 s, 3 min 20 s.

    >>> duration(8.24), duration(200)
    ('8.2 s', '3 min 20 s')
    """
    return f"{seconds:.1f} s" if seconds < 60 else f"{round(seconds) // 60} min {round(seconds) % 60} s"


def _say(text: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {text}", flush=True)
