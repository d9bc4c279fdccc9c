"""Random numbers that follow from a name: the same in every process, batch and variant."""

import hashlib

import torch
from torch import Tensor


def named_seed(name: str) -> int:
    """A seed in [0, 2^63) that follows from a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1


def named_stream(name: str) -> torch.Generator:
    """A stream of random numbers that follows from a name, on the CPU: a GPU's would give other numbers."""
    return torch.Generator().manual_seed(named_seed(name))


def named_noise(shape: tuple[int, ...], name: str) -> Tensor:
    """Standard normal noise of a shape that follows from a name, on the CPU."""
    return torch.randn(shape, generator=named_stream(name))
