"""Workers on a Ray cluster: the same rendering processes, wherever Ray has room for them.

All machines see the meshes and the output under the same paths, as on a cluster's shared file system, and have this
package installed. What an actor writes appears whole or not at all, so an object whose actor was lost is simply
rendered again by another one.
"""

import logging
import os
import socket
from typing import Any

from ouroboros3d.datamodules.render_jobs import RENDERER_VERSION, RenderJob, RenderResult
from ouroboros3d.datamodules.render_process import RenderProcess

# Machines come and go; an object that takes its actor with it this often is to blame itself.
_MAX_LOST = 3
_REACH_S = 10.0


def connect(address: str, workers: int | None, cpus: float) -> int:
    """Join a cluster, or start one on this machine.

    Args:
        address: `auto`, `HOST:PORT`, `ray://HOST:PORT`, or `local` for a cluster of this machine alone.
        workers: how many actors are wanted; None for as many as have room.
        cpus: CPUs that an actor reserves.

    Returns:
        How many actors there will be.

    Raises:
        ValueError: Ray is not installed, there is no such cluster, or it has no room for an actor.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            f"ray-address: expected Ray, got {error}; install it: pip install 'ouroboros3d[ray]'."
        ) from error
    new = address == "local"
    try:
        _reach(address)
        ray.init(
            address=address,
            num_cpus=max(1, round(workers * cpus)) if new and workers else None,
            include_dashboard=False if new else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"ray-address: expected a Ray cluster at {address}, got {error}") from error
    found = float(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
    room = int(found // cpus)
    if room < 1:
        ray.shutdown()
        raise ValueError(f"cpus_per_worker: expected at most the {found:g} CPUs of the cluster, got {cpus:g}.")
    return min(workers or room, room)


def _reach(address: str) -> None:
    """See whether anyone listens at `HOST:PORT`, where Ray itself would wait for minutes.

    Raises:
        OSError: nobody does.
        ValueError: no such address.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=_REACH_S).close()


def disconnect() -> None:
    """Leave the cluster, or end the one that `connect` has started."""
    import ray

    ray.shutdown()


class _Actor:
    """A rendering process on some machine of the cluster."""

    def __init__(self, memory_mib: int) -> None:
        self._process = RenderProcess(memory_mib)

    def version(self) -> int:
        """Of the renderer that is installed there."""
        return RENDERER_VERSION

    def run(self, job: RenderJob) -> RenderResult:
        return self._process.run(job)


class RayWorker:
    """An actor, started when first needed and again, perhaps on another machine, when it was lost.

    Args:
        memory_mib: MiB that the rendering process may allocate.
        cpus: CPUs that the actor reserves.
    """

    def __init__(self, memory_mib: int, cpus: float) -> None:
        self._memory_mib = memory_mib
        self._cpus = cpus
        self._actor: Any = None
        self.closed = False

    def run(self, job: RenderJob) -> RenderResult:
        """Render one object, again on another actor where one is lost.

        Raises:
            ValueError: another version of the renderer on a machine of the cluster.
        """
        import ray

        for _ in range(_MAX_LOST):
            try:
                if self._actor is None:
                    self._actor = ray.remote(_Actor).options(num_cpus=self._cpus).remote(self._memory_mib)
                    there = ray.get(self._actor.version.remote())
                    if there != RENDERER_VERSION:
                        raise ValueError(
                            f"ray-address: expected version {RENDERER_VERSION} of the renderer on every machine, got "
                            f"{there}; install the same ouroboros3d everywhere."
                        )
                result: RenderResult = ray.get(self._actor.run.remote(job))
                return result
            except ray.exceptions.RayActorError:
                self._actor = None
                if self.closed:
                    break
            except ray.exceptions.RayTaskError as error:
                raise ValueError(f"ray-address: {error.cause}") from error
        return RenderResult("crash", f"its Ray actor was lost {_MAX_LOST} times")

    def kill(self) -> None:
        """End the actor, whatever it is doing."""
        import ray

        self.closed = True
        if self._actor is not None:
            ray.kill(self._actor)

    def close(self) -> None:
        """End the idle actor."""
        self.kill()
