"""The mean over objects: missing values, accumulation, and several processes that hold unequal numbers of objects."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from processes import START_METHOD
from torch import Tensor

from ouroboros3d.metrics.per_object import PerObject


class Mean(PerObject):
    """The value of an object is the mean of its numbers [B, N]."""

    higher_is_better = True

    def values(self, numbers: Tensor) -> Tensor:
        return numbers.mean(1)


# Values of the objects that two processes hold: unequal numbers, one of them missing, and none at all.
SHARES = {
    "unequal": ([1.0, 2.0, 6.5], [10.0]),
    "missing": ([1.0, math.nan, 3.0], [math.nan, 8.0]),
    "one-sided": ([0.25, 0.5], []),
    "nothing": ([math.nan], []),
}


def test_the_mean_is_over_objects_not_over_batches():
    metric = Mean()
    metric.update(torch.tensor([[1.0, 3.0], [4.0, 4.0], [6.0, 6.0]]))
    metric.update(torch.tensor([[10.0, 12.0]]))
    assert metric.compute().item() == pytest.approx((2 + 4 + 6 + 11) / 4)


def test_values_change_nothing_and_adding_them_is_updating(recwarn):
    numbers = torch.rand(3, 4)
    one, other = Mean(), Mean()
    assert one.values(numbers).shape == (3,)
    assert one.count == 0
    one.update(numbers)
    other.add(other.values(numbers))
    assert one.compute() == other.compute()
    other.add(torch.tensor([5.0]))
    assert other.compute().item() == pytest.approx((numbers.mean(1).sum().item() + 5) / 4), "the cached mean is dropped"
    assert not recwarn.list, "torchmetrics warns of a mean of nothing"


def test_calling_gives_the_mean_of_the_batch_and_counts_it():
    metric = Mean()
    assert metric(torch.full((2, 1), 3.0)).item() == 3
    assert metric(torch.full((1, 1), 9.0)).item() == 9
    assert metric.compute().item() == 5
    metric.reset()
    metric.add(torch.tensor([7.0]))
    assert metric.compute().item() == 7


def test_missing_values_do_not_count():
    metric = Mean()
    metric.add(torch.tensor([1.0, math.nan, 4.0]))
    assert metric.compute().item() == 2.5
    metric.reset()
    metric.add(torch.tensor([math.nan]))
    assert metric.compute().isnan()


def test_a_worse_object_lowers_the_mean():
    good, bad = Mean(), Mean()
    good.add(torch.tensor([0.5, 0.9]))
    bad.add(torch.tensor([0.5, 0.8]))
    assert bad.compute() < good.compute()


def test_states_made_in_inference_mode_can_be_used_outside_and_back():
    metric = Mean()
    with torch.inference_mode():
        metric.reset()
        metric.add(torch.tensor([1.0]))
    metric.add(torch.tensor([2.0]))
    with torch.inference_mode():
        metric.add(torch.tensor([6.0]))
        assert metric.compute().item() == 3


def _process(rank: int, folder: str) -> None:
    """One of two processes: its own share of each case, then the mean that it sees, twice."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a machine may have no network, or a name it cannot resolve
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    found = {}
    for case, shares in SHARES.items():
        metric = Mean()
        for value in shares[rank]:
            metric.update(torch.tensor([[value]]))
        metric.add(torch.zeros(0))
        first = metric.compute().item()
        metric.add(torch.tensor([4.0] if rank == 1 else []))  # goes on with its own share, not with everybody's
        found[case] = [first, metric.compute().item()]
    Path(folder, f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    torch.distributed.destroy_process_group()


def test_two_processes_with_unequal_shares_give_the_mean_of_one(tmp_path):
    torch.multiprocessing.start_processes(_process, args=(str(tmp_path),), nprocs=2, start_method=START_METHOD)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8"))
        for case, shares in SHARES.items():
            metric = Mean()
            metric.add(torch.tensor([value for share in shares for value in share]))
            expected = [metric.compute().item()]
            metric.add(torch.tensor([4.0]))
            expected.append(metric.compute().item())
            assert found[case] == pytest.approx(expected, nan_ok=True), f"process {rank}, {case}"
