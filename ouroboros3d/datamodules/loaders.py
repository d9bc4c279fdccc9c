"""Loaders of batches: an endless stream of draws that an interrupted run takes up where it stopped."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.datamodules.datasets import GO_ON, MultiviewDataset, Sample, SampleKey
from ouroboros3d.datamodules.loader_workers import deaf_children
from ouroboros3d.datamodules.splits import hashed_integer


class DrawSampler(DistributedSampler[Sample]):
    """An endless stream of draws, dealt to the ranks in turn: epoch after epoch, every object `repeats` times in each.

    One iteration yields about an epoch of it, whole batches only, from `start` on; a batch may reach into the next
    epoch, so nothing is dropped and nothing padded. A `DistributedSampler` because Lightning leaves those in place
    under every strategy; the epoch that it announces is not needed, the place in the stream says it.

    Args:
        dataset: the objects.
        repeats: draws of each object per epoch.
        batch_size: draws per batch on each rank.
        seed: of the order.
        num_replicas: processes that train together.
        rank: this one.
    """

    def __init__(
        self, dataset: MultiviewDataset, repeats: int, batch_size: int, seed: int, num_replicas: int, rank: int
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, seed=seed)
        self.repeats = repeats
        self.objects = len(dataset)
        self.num_samples = batch_size * max(1, self.objects * repeats // (batch_size * num_replicas))
        self.total_size = self.num_samples * num_replicas
        self.start = 0

    def __iter__(self) -> Iterator[SampleKey]:  # type: ignore[override]  # the base class yields plain integers
        """`len(self)` draws of this rank from number `start` on."""
        order_of: tuple[int, list[int]] = (-1, [])
        for number in range(self.start, self.start + self.num_samples):
            # Draw `number` of this rank is number * W + rank of all W ranks' one stream: the same one with any W.
            epoch, place = divmod(number * self.num_replicas + self.rank, self.objects * self.repeats)
            if order_of[0] != epoch:
                order_of = (epoch, self._order(epoch))
            repeat, item = divmod(order_of[1][place], self.objects)
            yield SampleKey(item, epoch, repeat)

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(hashed_integer("order", self.seed, epoch))
        return torch.randperm(self.objects * self.repeats, generator=generator).tolist()


class SampleLoader(DataLoader[Sample]):
    """A loader of batches: what is left out is left out of them, and errors of its workers are raised as they were."""

    def __iter__(self) -> Iterator[MultiviewBatch]:  # type: ignore[override]  # collated
        """One batch after another.

        Raises:
            OSError: as `MultiviewDataset`.
            ValueError: as there, or nothing of a batch can be read while other processes go through theirs in step.
        """
        with deaf_children():
            batches = super().__iter__()
        for batch in batches:
            if isinstance(batch, (ValueError, OSError)):
                raise batch
            if batch is not None:
                yield batch
            elif torch.distributed.is_initialized():  # the others would wait for ever
                raise ValueError(f"expected a batch on each process, got an object that cannot be read: {GO_ON}")


class ResumableLoader(SampleLoader):
    """A loader over a `DrawSampler` whose place in the stream goes into the checkpoint (Lightning asks for it).

    Each iteration continues where the last one was left, whether it was finished or not.
    """

    _batches = 0

    def __iter__(self) -> Iterator[MultiviewBatch]:  # type: ignore[override]  # collated
        """One epoch of batches.

        Raises:
            ValueError: an object has too few views, or none can be read.
        """
        if isinstance(self.sampler, DrawSampler):  # Lightning's `overfit_batches` puts a sequential one in its place
            self.sampler.start = self._batches * self._batch_draws // self.sampler.num_replicas
        # Counted here, not in the sampler, which runs ahead of the loop by what the workers prefetch.
        for batch in super().__iter__():
            self._batches += 1
            yield batch

    @property
    def _batch_draws(self) -> int:
        """Draws that one step takes from the stream, on all ranks together."""
        assert self.batch_size is not None
        return self.batch_size * (self.sampler.num_replicas if isinstance(self.sampler, DrawSampler) else 1)

    def state_dict(self) -> dict[str, Any]:
        """How many draws of the stream were handed out."""
        return {"draws": self._batches * self._batch_draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue behind the draws that were handed out."""
        self._batches = int(state["draws"]) // self._batch_draws
