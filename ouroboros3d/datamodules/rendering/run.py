"""Many objects at a time through workers, with a progress bar."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ouroboros3d.datamodules.readers.meshes import Asset
from ouroboros3d.datamodules.rendering.jobs import RenderWorker, Stage

_SAY_EVERY_S = 60  # where there is no terminal to draw a bar on


def render_all(
    assets: Sequence[Asset],
    render_one: Callable[[Asset, RenderWorker], Stage | None],
    what: str,
    count: int,
    start: Callable[[], RenderWorker],
) -> None:
    """Render objects, each by a worker that is free.

    Args:
        assets: the objects.
        render_one: renders one; see `RenderFolder.render_one`.
        what: is being rendered, for the progress bar.
        count: how many at a time.
        start: makes a worker.

    Raises:
        ValueError: rendering cannot work at all.
        OSError: the views cannot be written.
    """
    local = threading.local()
    workers: list[RenderWorker] = []
    stopping = threading.Event()

    def task(asset: Asset) -> Stage | None:
        if stopping.is_set():
            return None
        if not hasattr(local, "worker"):
            local.worker = start()
            workers.append(local.worker)
        return render_one(asset, local.worker)

    progress, bar = _progress(what, len(assets))
    pending = iter(assets)
    started = said = time.monotonic()
    done = failed = 0
    try:
        with ThreadPoolExecutor(count) as pool, progress:
            try:
                # A few ahead of the workers, not all: a tree may have a million objects.
                running: set[Future[Stage | None]] = {pool.submit(task, asset) for asset in islice(pending, 2 * count)}
                while running:
                    ended, running = wait(running, return_when=FIRST_COMPLETED)
                    failed += sum(future.result() != "done" for future in ended)
                    done += len(ended)
                    running |= {pool.submit(task, asset) for asset in islice(pending, len(ended))}
                    rate = done / (time.monotonic() - started)
                    progress.update(bar, completed=done, failed=failed, rate=rate)
                    if not progress.console.is_terminal and time.monotonic() - said > _SAY_EVERY_S:
                        said = time.monotonic()
                        left = (len(assets) - done) / rate
                        print(f"{done} of {len(assets)}, {failed} failed, {rate:.2f}/s, {left:.0f} s left", flush=True)
            finally:
                stopping.set()
                if done < len(assets):
                    for worker in workers:
                        worker.kill()
    finally:
        for worker in workers:
            worker.close()


def _progress(what: str, total: int) -> tuple[Progress, Any]:
    """A bar with the objects done, those of them that failed, the rate and the time left."""
    counts = TextColumn("{task.fields[failed]} failed, {task.fields[rate]:.2f}/s")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), counts, TimeRemainingColumn())
    progress = Progress(*columns)
    return progress, progress.add_task(what, total=total, failed=0, rate=0.0)
