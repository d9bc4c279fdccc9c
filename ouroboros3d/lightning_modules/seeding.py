"""Random numbers that follow from a name: the same in every process, batch and variant."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def seeded(name: str) -> Iterator[None]:
    """Torch's CPU stream seeded by a name inside the block, and as it was after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(named_seed(name))
        yield


def named_seed(name: str) -> int:
    """A seed in [0, 2^63) that follows from a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1


def named_noise(shape: tuple[int, ...], name: str) -> Tensor:
    """Standard normal noise of a shape that follows from a name, on the CPU."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(named_seed(name)))
