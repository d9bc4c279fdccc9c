"""Where a variant's weights come from: base weights, or a checkpoint of it or of the staged variant."""

import logging
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ouroboros3d.networks.pretrained import WITHOUT_EFFECT, load_base_weights

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
        check_checkpoint(path)
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path}: expected weights, got a file with code in it, which is never executed."
            ) from error
        module.load_state_dict(adapted(module, checkpoint["state_dict"], str(path)))
    else:
        parts = {name: getattr(module, name) for name in ("unet", "reconstructor", "image_encoder")}
        load_base_weights(path, parts, allow_missing=(r"^cond_encoder\.", WITHOUT_EFFECT))


def check_checkpoint(path: Path) -> None:
    """Raise ValueError unless a file is a whole checkpoint archive (its directory is at its end)."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: expected a checkpoint of this project, got a truncated file or one of another kind.")


def adapted(module: nn.Module, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """A variant's state dict from another's: adapters that it lacks stay as they start, said in the log.

    Args:
        module: the variant.
        state: of a checkpoint.
        source: names that checkpoint in messages.

    Raises:
        ValueError: missing or unexpected keys other than missing adapters, or other shapes.
    """
    own = module.state_dict()
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
