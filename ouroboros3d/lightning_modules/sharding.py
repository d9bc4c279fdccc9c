"""Several processes: fully sharded training for this project's batches, and what a sampler deals out twice."""

from typing import Any

import torch
from lightning.pytorch.plugins.precision import FSDPPrecision, Precision
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor


class WholeInputPrecision(FSDPPrecision):
    """Leaves batches in float32: Lightning's would round cameras too, and refuses frozen objects."""

    def convert_input(self, data: Any) -> Any:  # noqa: ANN401 - Lightning's signature
        """The batch as it is; autocast decides about each operation."""
        return data


class ShardedStrategy(FSDPStrategy):
    """Lightning's FSDP, with shards in float32 under every precision: autocast computes, as without sharding."""

    @property
    def precision_plugin(self) -> FSDPPrecision:
        """Lightning's choice, in this project's class."""
        return super().precision_plugin

    @precision_plugin.setter
    def precision_plugin(self, plugin: Precision | None) -> None:
        if isinstance(plugin, FSDPPrecision):
            plugin = WholeInputPrecision(plugin.precision, plugin.scaler)  # type: ignore[arg-type] # its own value
        self._precision_plugin = plugin

    @property
    def mixed_precision_config(self) -> None:
        """None: FSDP's own would round what goes into the model, cameras included."""
        return


def repeats(batch_idx: int, objects: int, loader: Any, rank: int, world_size: int) -> Tensor:  # noqa: ANN401
    """Which objects of a batch another process has too: [B] bool.

    A `DistributedSampler` deals objects to the processes in turn and fills the last round up with the first objects.

    Args:
        batch_idx: of this process.
        objects: B.
        loader: that the batch came from.
        rank: of this process.
        world_size: processes.
    """
    place = (batch_idx * loader.batch_size + torch.arange(objects)) * world_size + rank
    repeated: Tensor = place >= len(loader.dataset)
    return repeated
