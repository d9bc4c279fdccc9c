"""Time and memory of a stretch of work."""

import time

import torch

from ouroboros3d.lightning_modules.cost import CostMeter


def test_pauses_count_neither_time_nor_memory() -> None:
    meter = CostMeter(torch.device("cpu"))
    with meter.paused():
        paused = torch.ones(64 * 2**18)  # 64 MiB
        time.sleep(0.2)
        del paused
    seconds, quiet = meter.read()
    assert seconds < 0.1
    held = torch.ones(48 * 2**18)
    time.sleep(0.05)
    later, busy = meter.read()
    assert later >= seconds + 0.05
    # The 48 MiB are resident, the 64 of the pause are not; the allocator may keep a few pages of either.
    assert 40 < busy - quiet < 60
    del held
    assert meter.read()[1] > busy - 1, "a peak stays; of pages the kernel counts some later"
