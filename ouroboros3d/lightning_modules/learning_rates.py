"""Learning rates: of which parts, and over the steps of a run."""

import math
import re
from dataclasses import dataclass, fields
from typing import Literal

from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.optim import Optimizer

Decay = Literal["constant", "cosine", "last_40_percent"]

_PARTS = {"adapters": r"^unet\.cond_encoder\.", "rays": r"^unet\.(down|mid|up)_plucker\."}


@dataclass(frozen=True)
class LearningRateFactors:
    """Factors on the learning rate of parts that pre-trained weights do not have.

    They start from zero beside weights that need small steps, and at the same rate they are still near zero when the
    run is over.

    Args:
        adapters: of the adapters that feedback maps go through.
        rays: of the embeddings of camera rays.
    """

    adapters: float = 1.0
    rays: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges once.

        Raises:
            ValueError: a factor that is negative or not finite.
        """
        for field in fields(self):
            if not 0 <= (factor := getattr(self, field.name)) < math.inf:
                raise ValueError(f"learning_rates.{field.name}: expected a finite factor >= 0, got {factor:g}.")

    def optimizer(self, module: nn.Module, make: OptimizerCallable) -> Optimizer:
        """An optimiser of a variant's trainable parameters, in one group for each factor that is not 1.

        Args:
            module: the variant.
            make: an optimiser from groups of parameters.
        """
        of_part: dict[str, list[nn.Parameter]] = {"": []}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                part = next((part for part, names in _PARTS.items() if re.match(names, name)), "")
                part = part if part and getattr(self, part) != 1 else ""
                of_part.setdefault(part, []).append(parameter)
        named = [(part, parameters) for part, parameters in of_part.items() if parameters]
        optimizer = make([{"params": parameters} for _, parameters in named])
        for (part, _), group in zip(named, optimizer.param_groups, strict=True):
            group["lr"] *= getattr(self, part) if part else 1.0
        return optimizer


def learning_rate_factor(step: int, warmup: int, total: float, decay: Decay) -> float:
    """The factor on every learning rate at a step.

    Args:
        step: 0-based.
        warmup: steps over which the factor rises in a straight line.
        total: steps of the run.
        decay: what follows, see `ImageTo3D`.
    """
    rise = min(1.0, (step + 1) / (warmup + 1))
    if decay == "constant":
        return rise
    if decay == "last_40_percent":
        return rise * min(1.0, max(0.0, (total - step) / (0.4 * total)))
    done = min(1.0, max(0, step - warmup) / max(1.0, total - warmup))
    return rise * 0.5 * (1 + math.cos(math.pi * done))
