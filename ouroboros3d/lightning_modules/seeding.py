"""Random numbers that follow from a name: the same in every process, batch and variant."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def seeded(name: str) -> Iterator[None]:
    """Torch's CPU stream seeded by a name inside the block, and as it was after it."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it seeds GPUs too, and where there is none keeps a traceback of who asked.
        torch.default_generator.manual_seed(named_seed(name))
        yield


def drawn_each(names: Sequence[str], draw: Callable[[int], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """What each of B objects draws from a stream of its own, so that it matters to none which others are in its batch.

    A stream follows from its name and from the seed of torch's stream, not from what was drawn of that before.

    Args:
        names: B: what is drawn, and for whom; in training the places in the global batch, which no two processes share.
        draw: from an index, 0 to B - 1, to tensors [1, ...] with numbers from torch's CPU stream.

    Returns:
        the tensors [B, ...].
    """
    origin = torch.initial_seed()
    each = []
    for index, name in enumerate(names):
        with seeded(f"{origin}/{name}"):
            each.append(draw(index))
    return tuple(torch.cat(parts) for parts in zip(*each, strict=True))


def named_seed(name: str) -> int:
    """A seed in [0, 2^63) that follows from a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1


def named_noise(shape: tuple[int, ...], name: str) -> Tensor:
    """Standard normal noise of a shape that follows from a name, on the CPU."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(named_seed(name)))
