"""Weights in files of our own: one safetensors file each, in half precision, that describes itself.

Base weights are what training starts from: networks that were trained apart. A variant's weights are what a run
learned, with all that is needed to use them; no `config.yaml` has to lie beside them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ouroboros3d.files import atomic_write
from ouroboros3d.networks.pretrained.files import read_safetensors
from ouroboros3d.networks.pretrained.strict import LoadReport, check_meaning, check_strict, load_strict

WITHOUT_EFFECT = r"\.attn2\.to_[qk]\."
"""Queries and keys of the U-Net's cross-attention: over one image token the softmax is 1, whatever they are."""

_BASE_FORMAT = "ouroboros3d-base-1"
_VARIANT_FORMAT = "ouroboros3d-variant-1"
_OF_A_VARIANT = ("variant", "config", "meaning", "steps", "seed", "moving_average", "recipe", "sources")


def save_base_weights(
    path: Path | str, parts: Mapping[str, Mapping[str, Tensor]], *, config: Mapping[str, Any], recipe: Mapping[str, Any]
) -> None:
    """Write the weights of several networks, trained apart.

    Args:
        path: the file; written under a temporary name and renamed.
        parts: state dicts by network, for example of `unet`, `reconstructor`, `image_encoder`.
        config: sizes of the networks, as JSON.
        recipe: how they were trained (command, data and its licences, steps, seed, measured quality), as JSON.

    Raises:
        ValueError: a weight that is not finite in half precision.
    """
    tensors = {f"{name}.{key}": value for name, state in parts.items() for key, value in state.items()}
    _save(Path(path), tensors, _BASE_FORMAT, {"parts": sorted(parts), "config": config, "recipe": recipe})


def load_base_weights(
    path: Path | str, parts: Mapping[str, nn.Module], *, allow_missing: tuple[str, ...] = ()
) -> dict[str, LoadReport]:
    """Load base weights written by `save_base_weights`, all parts or none.

    Args:
        path: the file.
        parts: networks by name; exactly those of the file.
        allow_missing: as in `load_strict`, for example new adapters.

    Returns:
        a report for each part.

    Raises:
        ValueError: another file, other parts, or weights that do not fit in shape or in what their output means.
    """
    tensors, metadata = read_safetensors(path)
    found = metadata.get("format")
    if found != _BASE_FORMAT:
        raise ValueError(f"{path}: expected base weights ({_BASE_FORMAT}), got {found or 'another file'}.")
    stored = json.loads(metadata["parts"])
    if sorted(parts) != stored:
        raise ValueError(f"{path}: expected weights of {sorted(parts)}, got {stored}.")
    states = {
        name: {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        for name in parts
    }
    config = json.loads(metadata["config"])
    for name, module in parts.items():
        check_meaning(name, module, config.get(name, {}).get("init_args", {}), str(path))
        check_strict(module, states[name], allow_missing=allow_missing, source=str(path))
    return {
        name: load_strict(module, states[name], allow_missing=allow_missing, source=str(path))
        for name, module in parts.items()
    }


def save_variant(path: Path | str, state: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write the weights of a trained variant.

    Args:
        path: the file; written under a temporary name and renamed.
        state: the variant's state dict.
        description: as JSON, `variant`: its class; `config`: `model` and `data` as in a run's config.yaml; `meaning`:
            settings that shapes do not show; `steps`, `seed`: of the training; `moving_average`: whether the weights
            are one; `recipe`: how they were trained; `sources`: of the training data, each with its licences.

    Raises:
        ValueError: a weight that is not finite in half precision.
    """
    _save(Path(path), state, _VARIANT_FORMAT, {name: description[name] for name in _OF_A_VARIANT})


def is_variant(path: Path) -> bool:
    """Whether a file is what `save_variant` writes."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == _VARIANT_FORMAT
    except (SafetensorError, OSError):
        return False


def read_variant(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict [half precision] and the description that `save_variant` wrote.

    Raises:
        ValueError: no such file, or another one.
    """
    tensors, metadata = read_safetensors(path)
    found = metadata.get("format")
    if found != _VARIANT_FORMAT:
        hint = "; base weights are what --model.base_weights takes" if found == _BASE_FORMAT else ""
        raise ValueError(
            f"{path}: expected weights of a trained variant ({_VARIANT_FORMAT}), got {found or 'another file'}{hint}."
        )
    try:
        return tensors, {name: json.loads(metadata[name]) for name in _OF_A_VARIANT}
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: expected a description with {', '.join(_OF_A_VARIANT)}, got a damaged one ({error}); make the "
            "file again from its run (python -m ouroboros3d.commands.base_weights)."
        ) from error


def _save(path: Path, state: Mapping[str, Tensor], kind: str, description: Mapping[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        half = value.detach().cpu().half() if value.is_floating_point() else value.detach().cpu()
        if not bool(torch.isfinite(half).all()):
            raise ValueError(
                f"{key}: expected values that are finite in half precision, got up to {value.abs().max():g}."
            )
        tensors[key] = half.contiguous()
    metadata = {name: json.dumps(value, sort_keys=True) for name, value in description.items()}
    with atomic_write(path) as part:
        save_file(tensors, part, metadata={"format": kind, **metadata})
