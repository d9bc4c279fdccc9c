"""Inputs and parameters of the reference vectors in tests/fixtures/published, by formula (see README.md there)."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parents[1] / "fixtures" / "published"
MIXED_TOLERANCE = 3e-5  # of the largest value; one thread instead of two moves the reference itself by up to 9e-6


def read(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays of a file as tensors (scalars and shapes as numpy), and its config."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    config = json.loads(str(arrays.pop("config", "{}")))
    tensors = {key: torch.from_numpy(a) if a.dtype == np.float32 else a for key, a in arrays.items()}
    return tensors, config


def shapes(name: str) -> tuple[int, dict[str, list[int]]]:
    """Parameter count and shapes by name."""
    content = json.loads((FOLDER / f"shapes_{name}.json").read_text(encoding="utf-8"))
    return content["parameters"], content["shapes"]


def wave(shape: Any, k: Any, a: float = 0.11) -> Tensor:
    """sin(a * i + k) over the flat index i."""
    size = tuple(int(n) for n in shape)
    return torch.from_numpy(np.sin(a * np.arange(np.prod(size)) + float(k)).astype(np.float32).reshape(size))


def values(name: str, shape: torch.Size) -> Tensor:
    """The `mixed` values of a parameter: hashed noise of variance 1 / fan-in, small biases, norms near 1."""
    u = np.arange(shape.numel(), dtype=np.uint64) * np.uint64(2654435761) + np.uint64(zlib.crc32(name.encode()))
    for shift, factor in ((16, 2246822519), (13, 3266489917)):
        u &= np.uint64(2**32 - 1)
        u = (u ^ (u >> np.uint64(shift))) * np.uint64(factor)
    u &= np.uint64(2**32 - 1)
    s = 2 * (u ^ (u >> np.uint64(16))).astype(np.float64) / 2**32 - 1
    if len(shape) > 1:
        s *= np.sqrt(3 * shape[0] / shape.numel())
    else:
        s = 1 + 0.1 * s if name.endswith(".weight") else 0.1 * s
    return torch.from_numpy(s.astype(np.float32)).reshape(shape)


def published_state(module: nn.Module, to_published: Callable[[str], str] = str) -> dict[str, Tensor]:
    """A state dict with published names, values by formula."""
    names = {to_published(key): value.shape for key, value in module.state_dict().items()}
    return {name: values(name, shape) for name, shape in names.items()}


def assert_matches(actual: Tensor, reference: Tensor, tolerance: float = MIXED_TOLERANCE) -> None:
    """Equal up to `tolerance` of the reference's largest value."""
    assert actual.shape == reference.shape
    error = ((actual - reference).abs().max() / reference.abs().max()).item()
    assert error <= tolerance, f"off by {error:.2g} of the largest value, more than {tolerance:g}"


def difference(actual: Tensor, reference: Tensor) -> float:
    """Largest difference as a fraction of the reference's largest value."""
    return ((actual - reference).abs().max() / reference.abs().max()).item()
