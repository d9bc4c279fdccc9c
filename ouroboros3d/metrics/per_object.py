"""The mean over objects of one value an object, whichever process holds the object."""

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

Compared = Literal["images", "masks", "surfaces", "solids", "coordinates"]
"""What a metric compares: colours, alphas, surfaces (their distances), solid cells, or maps of surface points."""


class PerObject(Metric):
    """Mean of one value an object; a NaN is a missing value and is not counted.

    A class says in `higher_is_better` which way it gets better, and in `compares` what its `values` take.

    What the processes share is a sum and a count, so unequal numbers of objects give the mean that one process would.
    Both are in float64: the mean of a few thousand objects does not depend on their order in the digits reported.
    """

    compares: ClassVar[Compared]
    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @abstractmethod
    def values(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 - each metric has arguments of its own
        """The values [B] of B objects; changes nothing."""

    def add(self, values: Tensor) -> None:
        """Count the values [B] of B objects that `values` gave."""
        # What torchmetrics does around `update`, for which this stands in where values are computed once for rows and
        # means: it drops the cached mean and tells `compute` that there is something to compute.
        self._computed = None
        self._update_count += 1
        # Not in place: a state made in inference mode could not be changed outside of it.
        self.total = self.total + values.detach().double().nansum()
        self.count = self.count + (~values.isnan()).sum()

    def update(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - those of `values`
        """Count B objects; takes what `values` takes."""
        self.add(self.values(*args, **kwargs))

    def compute(self) -> Tensor:
        """The mean [] over all objects of all processes; NaN where no value was counted."""
        return self.total / self.count
