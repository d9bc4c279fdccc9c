"""Workers on a Ray cluster: the same rendering processes, wherever Ray has room for them.

All machines see the meshes and the output under the same paths, as on a cluster's shared file system, and have this
package installed. What an actor writes appears whole or not at all, so an object whose actor was lost is simply
rendered again by another one.
"""

import logging
import os
import secrets
import socket
from typing import Any

from ouroboros3d.datamodules.rendering.jobs import RENDERER_VERSION, RenderJob, RenderResult
from ouroboros3d.datamodules.rendering.process import RenderProcess

# Machines come and go; an object that takes its actor with it this often is to blame itself.
_MAX_LOST = 3
_REACH_S = 10.0


def connect(address: str, workers: int | None, cpus: float, gpus: float = 0.0) -> int:
    """Join a cluster, or start one on this machine.

    Args:
        address: `auto`, `HOST:PORT`, `ray://HOST:PORT`, or `local` for a cluster of this machine alone.
        workers: how many actors are wanted; None for as many as have room.
        cpus: CPUs that an actor reserves.
        gpus: the share of a GPU that an actor reserves.

    Returns:
        How many actors there will be.

    Raises:
        ValueError: Ray is not installed, there is no such cluster, or none of its machines has room for an actor.
    """
    new = address == "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if new and "RAY_AUTH_MODE" not in os.environ:
        # Its ports are open to the network, and whoever reaches them could run code: ask for what only its parts know.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            f"ray_address: expected Ray, got {error}; install it: pip install 'ouroboros3d[ray]'."
        ) from error
    try:
        _reach(address)
        ray.init(
            address=address,
            num_cpus=max(1, round(workers * cpus)) if new and workers else None,
            include_dashboard=False if new else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # it raises bare ones too, as where this machine is too busy to start a cluster
        raise ValueError(f"ray_address: expected a Ray cluster at {address}, got {error}") from error
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]  # type: ignore[no-untyped-call]
    room = sum(_room(machine, cpus, gpus) for machine in machines)
    if room < 1:
        ray.shutdown()
        kinds = sorted({f"{one.get('CPU', 0):g} CPUs, {one.get('GPU', 0):g} GPUs" for one in machines})
        raise ValueError(
            f"cpus_per_worker, gpus_per_worker: expected a machine of the cluster that has them, got {cpus:g} and "
            f"{gpus:g} on {' and '.join(kinds)}."
        )
    return min(workers or room, room)


def _room(machine: dict[str, float], cpus: float, gpus: float) -> int:
    """How many actors a machine with these resources has room for; each has its share on one GPU."""
    room = int(machine.get("CPU", 0) // cpus)
    return min(room, int(machine.get("GPU", 0)) * workers_per_gpu(gpus)) if gpus else room


def workers_per_gpu(share: float) -> int:
    """How many workers a GPU has room for, of which each takes a share of it."""
    return int(1 / share + 1e-9)  # 1 / 0.2 may round to less than 5


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
    """A rendering process on some machine of the cluster, which shows it the GPU that Ray reserved."""

    def __init__(self, memory_mib: int, device: str) -> None:
        self._process = RenderProcess(memory_mib, device)

    def version(self) -> int:
        """Of the renderer that is installed there."""
        return RENDERER_VERSION

    def run(self, job: RenderJob) -> RenderResult:
        return self._process.run(job)


class RayWorker:
    """An actor, started when first needed and again, perhaps on another machine, when it was lost.

    Args:
        memory_mib: MiB that the rendering process may allocate, and on a GPU as many there.
        cpus: CPUs that the actor reserves.
        gpus: the share of a GPU that the actor reserves.
        device: `cpu` or `cuda`.
    """

    def __init__(self, memory_mib: int, cpus: float, gpus: float = 0.0, device: str = "cpu") -> None:
        self._settings = (memory_mib, device)
        self._resources = {"num_cpus": cpus, "num_gpus": gpus}
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
                    self._actor = ray.remote(_Actor).options(**self._resources).remote(*self._settings)
                    there = ray.get(self._actor.version.remote())
                    if there != RENDERER_VERSION:
                        raise ValueError(
                            f"ray_address: expected version {RENDERER_VERSION} of the renderer on every machine, got "
                            f"{there}; install the same ouroboros3d everywhere."
                        )
                result: RenderResult = ray.get(self._actor.run.remote(job))
                return result
            except ray.exceptions.RayActorError as error:
                if error.actor_init_failed:
                    reason = str(error).strip().splitlines()[-1]
                    raise ValueError(
                        f"ray_address: expected ouroboros3d on every machine of the cluster, got {reason}"
                    ) from error
                self._actor = None
                if self.closed:
                    break
            except ray.exceptions.RayTaskError as error:
                raise ValueError(f"ray_address: {error.cause}") from error
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
