"""In which numbers a training step computes on a CPU."""

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

_log = logging.getLogger(__name__)
_INSTRUCTIONS = {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16"}


def training_precision(device: torch.device, bfloat16_on_cpu: bool) -> AbstractContextManager[None]:
    """The context of a step's losses: autocast to bfloat16 where it is wanted and a CPU is fast in it, else as it is.

    Args:
        device: of the module.
        bfloat16_on_cpu: whether it is wanted.
    """
    if not bfloat16_on_cpu or device.type != "cpu" or not computes_bfloat16():
        return nullcontext()
    # Without the cache: a pass without gradients would leave cast weights in it that the next pass has no gradients of.
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)


@cache
def computes_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; says so once."""
    found = [name for flag, name in _INSTRUCTIONS.items() if torch.cpu.get_capabilities().get(flag)]
    if found:
        _log.info("bfloat16_on_cpu: training steps compute in bfloat16 (%s), all else in float32.", found[0])
    else:
        expected = " or ".join(_INSTRUCTIONS.values())
        _log.info("bfloat16_on_cpu: this CPU has no %s: training steps compute in float32.", expected)
    return bool(found)
