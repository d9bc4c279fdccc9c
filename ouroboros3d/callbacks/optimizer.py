"""The optimiser of a run that goes on: that of the checkpoint, with the numbers of the configuration."""

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

_log = logging.getLogger("ouroboros3d")
_KEY = "ouroboros3d_optimizer"
# Settings of a group that are no numbers: the same update computed in another way.
_HOW = {"fused", "foreach", "capturable", "differentiable"}


class ConfiguredOptimizer(Callback):
    """Let a run that goes on train as its configuration says.

    torch restores the numbers of an optimiser's groups (rates, decays, momenta) with its moments, and its scheduler the
    rates once more, so that another learning rate would be written into a run's record and never be used. Here the
    numbers are the configuration's, and the moments the checkpoint's. Another optimiser, or one of other parameters,
    which cannot go on with these moments, is refused.
    """

    def __init__(self) -> None:
        self._numbers: list[dict[str, Any]] = []
        self._before: dict[str, Any] | None = None  # what the checkpoint's optimiser was

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember which optimiser the moments are of.

        Raises:
            ValueError: there are none, which Lightning would not mind.
        """
        self._before = checkpoint.get(_KEY)
        for name in ("optimizer_states", "lr_schedulers"):
            if (found := len(checkpoint.get(name, ()))) != 1:
                raise ValueError(
                    f"ckpt_path: expected a checkpoint that a run wrote, with one entry of {name}, got {found}; "
                    "weights alone are what --model.base_weights takes."
                )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say which optimiser the moments are of."""
        checkpoint[_KEY] = _described(trainer.optimizers[0])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the configuration's numbers, before those of a checkpoint take their place.

        Raises:
            ValueError: the checkpoint's optimiser is another one.
        """
        self._numbers = [
            {name: value for name, value in group.items() if name not in {"params", "lr", *_HOW}}
            for group in trainer.optimizers[0].param_groups
        ]
        before, now = self._before, _described(trainer.optimizers[0])
        if before is not None and before != now:
            raise ValueError(
                f"ckpt_path: expected the optimiser that the checkpoint was trained with, {_said(before)}, got "
                f"{_said(now)}; keep model.optimizer, model.train and which of model.learning_rates are 1, or start "
                "from the weights alone with --model.base_weights."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the configuration's numbers in the place of the checkpoint's."""
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, LambdaLR)
        for name, (before, now) in take_numbers(trainer.optimizers[0], scheduler, self._numbers).items():
            _log.info("optimizer: %s is %s from here on, in place of the checkpoint's %s.", name, now, before)


def take_numbers(
    optimizer: Optimizer, scheduler: LambdaLR, numbers: list[dict[str, Any]]
) -> dict[str, tuple[Any, Any]]:
    """Give an optimiser and its scheduler other numbers, at the step where they are.

    Args:
        optimizer: whose groups get them.
        scheduler: a factor a step on every group's rate.
        numbers: of each group; `initial_lr` is its rate before the scheduler's factor.

    Returns:
        what changed, by name: the value before and the one now, of the first group where it did.
    """
    changed: dict[str, tuple[Any, Any]] = {}
    for group, own, factor in zip(optimizer.param_groups, numbers, scheduler.lr_lambdas, strict=True):
        for name, value in own.items():
            if _plain(group.get(name)) != _plain(value):
                changed.setdefault("lr" if name == "initial_lr" else name, (group.get(name), value))
            group[name] = value
        group["lr"] = own["initial_lr"] * factor(scheduler.last_epoch)
    scheduler.base_lrs = [own["initial_lr"] for own in numbers]
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]
    return changed


def _described(optimizer: Optimizer) -> dict[str, Any]:
    kind = type(optimizer)
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "parameters": sizes}


def _said(described: dict[str, Any]) -> str:
    return f"{described['class']} of {' and '.join(map(str, described['parameters']))} parameters"


def _plain(value: Any) -> Any:  # noqa: ANN401 - of any optimiser
    return tuple(value) if isinstance(value, list) else value
