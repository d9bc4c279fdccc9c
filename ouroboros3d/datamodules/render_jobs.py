"""What the training process and its rendering processes say to each other, one JSON line each."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

# Part of the cache's key: raise it whenever the same asset and rig give other pixels.
RENDERER_VERSION = 1

Stage = Literal["ready", "done", "missing", "load", "render", "write", "timeout", "crash"]


@dataclass(frozen=True)
class RenderJob:
    """One object to render.

    Args:
        uid: the object's name.
        path: its mesh file.
        sha256: of that file.
        license: carried into every rendered orbit.
        source: the collection it was taken from.
        folder: the cache folder that receives the orbits.
        rig: the cameras, as `OrbitRig.as_dict` gives them.
        timeout_s: wall-clock limit in seconds.
        surface_points: points of the true surface to write beside the views; 0 = no true geometry.
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

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class RenderResult:
    """What became of a job.

    Args:
        stage: `done`, or where it failed.
        error: the reason.
    """

    stage: Stage
    error: str = ""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))
