"""How weights are named: what comes with this package as `bundled:NAME`, any other file by its path."""

from pathlib import Path

SHIPPED = Path(__file__).with_name("weights")
"""The folder of the weights that come with this package: base weights, and a file for each trained variant."""

BASE = "desk"
"""The base weights among them, which `bundled` alone means."""

_PREFIX = "bundled:"


def checkpoint_file(name: str | Path) -> Path:
    """The file that a checkpoint's name means: `bundled:NAME` comes with this package, any other name is a path."""
    shipped = str(name).startswith(_PREFIX)
    return SHIPPED / f"{str(name).removeprefix(_PREFIX)}.safetensors" if shipped else Path(name)


def checkpoint_name(path: Path) -> str:
    """How results and messages call a checkpoint: the opposite of `checkpoint_file`."""
    return f"{_PREFIX}{path.stem}" if path.resolve().parent == SHIPPED.resolve() else str(path)


def shipped_names() -> list[str]:
    """The names of the trained variants that come with this package, as `checkpoint_file` takes them."""
    return [checkpoint_name(path) for path in sorted(SHIPPED.glob("*.safetensors")) if path.stem != BASE]
