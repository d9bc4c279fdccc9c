"""A variant with its weights, as commands hand it on."""

from pathlib import Path
from typing import Any, NamedTuple

from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D


class Loaded(NamedTuple):
    """What `load` of `commands.trainer` returns.

    variant: with the weights of the checkpoint.
    config: resolved, as in a run's config.yaml, but with the data settings that `predict` would have.
    checkpoint: the file.
    content: what it holds.
    """

    variant: ImageTo3D
    config: dict[str, Any]
    checkpoint: Path
    content: dict[str, Any]
