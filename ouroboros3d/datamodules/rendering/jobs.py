"""What those who want objects rendered and the rendering processes say to each other, one JSON line each."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from ouroboros3d.datamodules.orbits.names import MapName

# Part of the folder's description: raise it whenever the same asset and rig give other pixels. The tests hold it to a
# picture of one object (tests/rendered_pixels.py).
RENDERER_VERSION = 1

Stage = Literal["ready", "done", "missing", "load", "render", "write", "memory", "timeout", "crash"]


@dataclass(frozen=True)
class RenderJob:
    """One object to render.

    Args:
        uid: the object's name.
        path: its mesh file.
        sha256: of that file.
        license: carried into every rendered orbit.
        source: the collection it was taken from.
        folder: receives the orbits.
        rig: the cameras, as `OrbitRig.as_dict` gives them.
        timeout_s: wall-clock limit in seconds.
        surface_points: points of the true surface to write beside the views; 0 = no true geometry.
        maps: further images of every view.
        z_up: whether the file's world is Z-up.
    """

    uid: str
    path: str
    sha256: str
    license: str
    source: str
    folder: str
    rig: dict[str, Any]
    timeout_s: float
    surface_points: int = 0
    maps: tuple[MapName, ...] = ()
    z_up: bool = False

    def to_json(self) -> str:
        """The job or the result as one line of JSON."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class RenderResult:
    """What became of a job.

    Args:
        stage: `done`, or where it failed.
        error: the reason.
        doubt: why a rendered object should be looked at before anyone trains on it; empty for no reason.
        notes: what a rendered object's file says beside what is shown.
    """

    stage: Stage
    error: str = ""
    doubt: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, line: str) -> "RenderResult":
        """The result of a line."""
        fields = json.loads(line)
        return cls(**fields | {"notes": tuple(fields["notes"])})

    def to_json(self) -> str:
        """The job or the result as one line of JSON."""
        return json.dumps(asdict(self))


class RenderWorker(Protocol):
    """Renders one object at a time, here or on another machine, and outlives what the object does to it.

    `closed` says that it was told to end: the object that it worked on then counts as not tried.
    """

    closed: bool

    def run(self, job: RenderJob) -> RenderResult:
        """Render one object.

        Raises:
            ValueError: no object can be rendered this way at all.
        """

    def kill(self) -> None:
        """End at once, whatever it is doing."""

    def close(self) -> None:
        """End while idle, and free what it holds."""
