"""Strict loading of weights: every key is accounted for, and so is what weights mean beyond their shapes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

LEFT_OUT = {
    r"(^|\.)embeddings\.position_ids$": "older transformers versions saved it, newer ones recompute it",
    r"^lpips_loss\.": "the network of a loss, not part of the model",
}
"""Keys that files carry along and no module of ours has, and why they are not needed."""

MEANING = ("position", "rotation_norm", "time_shape", "plucker_rays", "plucker_skips", "coordinate_map")
"""Settings that weights are trained for, although their shapes do not show it."""


class Key(NamedTuple):
    """What became of one key of a load.

    name: in our state dict; of a key that was left out, in the file.
    shape: of the tensor.
    fate: `loaded`, or `kept` or `left out` and why.
    """

    name: str
    shape: tuple[int, ...]
    fate: str


@dataclass(frozen=True)
class LoadReport:
    """What a strict load did with every key.

    Args:
        keys: those of the module, then those of the file that it does not have.
        source: of the weights.
    """

    keys: tuple[Key, ...]
    source: str = ""

    @property
    def loaded(self) -> tuple[str, ...]:
        """Keys that were taken."""
        return tuple(key.name for key in self.keys if key.fate == "loaded")

    @property
    def missing(self) -> tuple[str, ...]:
        """Keys of the module that the weights lack, all of them allowed; they keep their values."""
        return tuple(key.name for key in self.keys if key.fate.startswith("kept"))

    @property
    def left_out(self) -> tuple[str, ...]:
        """Keys of the file that the module does not need."""
        return tuple(key.name for key in self.keys if key.fate.startswith("left out"))

    def __str__(self) -> str:
        """One line for the log."""
        groups = sorted({re.sub(r"\.\d+\..*|\.(weight|bias)$", "", key) for key in self.missing})
        new = f", {len(self.missing)} keys not in the weights keep their initial values: {', '.join(groups)}"
        left = f", {len(self.left_out)} left out"
        return (
            f"loaded {len(self.loaded)} tensors"
            + (f" from {self.source}" if self.source else "")
            + (new if self.missing else "")
            + (left if self.left_out else "")
        )

    def table(self) -> str:
        """A line for each key: what became of it, its name, its shape."""
        return "".join(f"{key.fate}: {key.name} {list(key.shape)}\n" for key in self.keys)


def load_strict(
    module: nn.Module, state: Mapping[str, Tensor], *, allow_missing: tuple[str, ...] = (), source: str = ""
) -> LoadReport:
    """Load weights into a module; every key on either side must be accounted for.

    Args:
        module: takes the values, in its own dtype and on its own device.
        state: names and tensors.
        allow_missing: regular expressions (searched in the key) for keys that `state` may lack.
        source: of the weights, for the report and the message.

    Returns:
        the report of every key.

    Raises:
        ValueError: missing keys, unexpected keys and other shapes, all in one message; the module is untouched.
    """
    report = check_strict(module, state, allow_missing=allow_missing, source=source)
    # Not a loose load: all that differs was checked and allowed above.
    module.load_state_dict({**module.state_dict(), **{key: state[key] for key in report.loaded}})
    return report


def check_strict(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    allow_missing: tuple[str, ...] = (),
    source: str = "",
    way_out: str = "The sizes in the config must be those of the weights.",
) -> LoadReport:
    """What `load_strict` would do, without doing it; raises where it would, with a way out in the message."""
    own = module.state_dict()
    missing: list[str] = []
    unexpected: list[str] = []
    shapes: list[str] = []
    keys: list[Key] = []
    for name, value in own.items():
        if name not in state:
            if not any(re.search(pattern, name) for pattern in allow_missing):
                missing.append(name)
            keys.append(Key(name, tuple(value.shape), "kept, not in the weights"))
            continue
        if state[name].shape != value.shape:
            shapes.append(f"{name} {list(state[name].shape)} instead of {list(value.shape)}")
        keys.append(Key(name, tuple(value.shape), "loaded"))
    for name in (name for name in state if name not in own):
        reason = next((why for pattern, why in LEFT_OUT.items() if re.search(pattern, name)), None)
        if reason is None:
            unexpected.append(name)
        keys.append(Key(name, tuple(state[name].shape), f"left out, {reason}"))
    if missing or unexpected or shapes:
        parts = [
            f"{len(names)} {what}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
            for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
            if names
        ]
        raise ValueError(
            f"expected the weights of {type(module).__name__} as configured, {len(own)} keys, got "
            f"{f'those of {source}, ' if source else ''}{len(state)}; {'; '.join(parts)}. {way_out}"
        )
    return LoadReport(tuple(keys), source)


def check_meaning(name: str, module: nn.Module, trained: Mapping[str, Any], source: str) -> None:
    """Compare the settings that weights were trained with and that their shapes do not show with a module's own.

    Args:
        name: of the part that the module is; empty for a whole variant.
        module: that the weights are for.
        trained: settings by name; only those of `MEANING` count.
        source: of the weights, for the message.

    Raises:
        ValueError: another setting.
    """
    for key in MEANING:
        own = getattr(module, key, None)
        path = f"{name}.{key}" if name else key
        if own is not None and trained.get(key, own) != own:
            raise ValueError(
                f"{source}: expected {path} = {own}, got weights of {trained[key]}; "
                f"set model.{path} to {trained[key]} or start from other weights."
            )
