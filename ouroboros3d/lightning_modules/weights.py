"""Where a variant's weights come from: base weights, or a checkpoint of it or of the staged variant."""

import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ouroboros3d.networks.pretrained import MEANING, WITHOUT_EFFECT, load_base_weights

_log = logging.getLogger(__name__)
_BUNDLED = Path(__file__).parents[1] / "weights" / "desk.safetensors"
# Parameters that a variant adds to the staged ones; a staged checkpoint leaves them as they start.
_ADAPTERS = "unet.cond_encoder."


def initialise(module: nn.Module, source: str) -> None:
    """Start a variant from given weights.

    Args:
        module: has the parts `unet`, `reconstructor` and `image_encoder`.
        source: `bundled`, a .safetensors file of base weights, or a .ckpt file of this project.

    Raises:
        ValueError: no such file, a file with code in it, or weights that do not fit.
    """
    path = _BUNDLED if source == "bundled" else Path(source)
    if not path.is_file():
        raise ValueError(
            f"base_weights: expected 'bundled', a .safetensors or .ckpt file, or null for random weights, got "
            f"{source!r} and no file at {path}."
        )
    if path.suffix == ".ckpt":
        module.load_state_dict(adapted(module, read_checkpoint(path), str(path)))
    else:
        parts = {name: getattr(module, name) for name in ("unet", "reconstructor", "image_encoder")}
        load_base_weights(path, parts, allow_missing=(r"^cond_encoder\.", WITHOUT_EFFECT))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds; tensors stay on disk until they are used.

    Raises:
        ValueError: a truncated file, one of another kind, or one with code in it.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: expected a checkpoint of this project, got a file with code in it, which is never executed."
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:  # torch's answers to a file that is no whole archive
        raise ValueError(
            f"{path}: expected a checkpoint of this project, got a truncated file or one of another kind."
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise ValueError(f"{path}: expected a checkpoint of this project, got a file without a state_dict.")
    return content


def meaning(module: nn.Module) -> dict[str, Any]:
    """Settings that a variant's weights are trained for, although their shapes do not show it."""
    found = {key: getattr(part, key) for part in module.children() for key in MEANING if hasattr(part, key)}
    return {**found, "feedback_maps": list(module.unet.feedback_maps)}  # type: ignore[union-attr, arg-type]


def adapted(module: nn.Module, checkpoint: dict[str, Any], source: str) -> dict[str, Tensor]:
    """A variant's state dict from another's: adapters that it lacks stay as they start, said in the log.

    Args:
        module: the variant.
        checkpoint: of a variant.
        source: names that checkpoint in messages.

    Raises:
        ValueError: missing or unexpected keys other than missing adapters, other shapes, or weights of another meaning.
    """
    state: dict[str, Tensor] = checkpoint["state_dict"]
    own, wanted = module.state_dict(), meaning(module)
    for key, trained in checkpoint.get("ouroboros3d_meaning", {}).items():
        fits = trained == wanted[key] or (key == "feedback_maps" and not (trained and wanted[key]))
        if not fits:
            raise ValueError(
                f"checkpoint: expected {key} = {wanted[key]}, got the weights of {source} trained with {trained}; "
                "use the configuration that it was trained with (config.yaml in its run)."
            )
    fresh = [key for key in own if key not in state and key.startswith(_ADAPTERS)]
    if fresh:
        _log.info("%d adapter tensors are new: %s has none; they start at zero output.", len(fresh), source)
    state = {**state, **{key: own[key] for key in fresh}}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or unexpected or shapes:
        raise ValueError(
            f"checkpoint: expected the weights of {type(module).__name__} as configured, got those of {source}: "
            f"{_some('missing', missing)}, {_some('unexpected', unexpected)}, {_some('of another shape', shapes)}; "
            "use the configuration that it was trained with (config.yaml in its run)."
        )
    return state


def _some(what: str, keys: Sequence[str]) -> str:
    return f"{len(keys)} {what}" + (f" ({', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''})" if keys else "")
