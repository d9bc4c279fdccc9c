"""This project's FSDP strategy where there is no GPU, which Lightning and torch refuse unless they are told twice.

Training runs; a checkpoint does not: the process that gathers the weights on a CPU crashes inside torch 2.11.
"""

import torch
from torch.distributed.fsdp import fully_sharded_data_parallel

from ouroboros3d.lightning_modules.sharding import ShardedStrategy

_init_device_handle = fully_sharded_data_parallel._init_device_handle


class ShardedOnCPU(ShardedStrategy):
    """Of another class than Lightning's, which refuses its own with `accelerator: cpu`."""


def prepare() -> None:
    """Let torch shard on the CPU."""
    fully_sharded_data_parallel._init_device_handle = lambda state, module, ignored, device: _init_device_handle(
        state, module, ignored, device or torch.device("cpu")
    )
