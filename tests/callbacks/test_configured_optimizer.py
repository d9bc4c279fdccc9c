"""A run that goes on with other numbers trains with them, and its moments stay."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from ouroboros3d.callbacks.checkpoints import WholeCheckpointIO
from ouroboros3d.callbacks.optimizer import ConfiguredOptimizer
from ouroboros3d.lightning_modules.learning_rates import learning_rate_factor

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*No device id")


class Rates(Callback):
    """Notes the numbers of every step's groups."""

    def __init__(self) -> None:
        self.seen: list[list[dict[str, Any]]] = []

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        groups = trainer.optimizers[0].param_groups
        self.seen.append([{name: value for name, value in group.items() if name != "params"} for group in groups])


class Two(LightningModule):
    """Two numbers in groups of their own, the second at ten times the rate, which falls by a half cosine in 8 steps."""

    def __init__(self, kind: type[torch.optim.Optimizer], **numbers: Any) -> None:
        super().__init__()
        self.one, self.two = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
        self.kind, self.numbers = kind, numbers

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return ((self.one - batch) ** 2 + (self.two - 2 * batch) ** 2).sum()

    def configure_optimizers(self) -> Any:
        rate = self.numbers.get("lr", 0.1)
        groups = [{"params": [self.one]}, {"params": [self.two], "lr": 10 * rate}]
        optimizer = self.kind(groups, **{**self.numbers, "lr": rate})

        def factor(step: int) -> float:
            return learning_rate_factor(step, warmup=1, total=8, decay="cosine")

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"},
        }


def train(folder: Path, steps: int, module: Two, checkpoint: Path | None = None) -> tuple[Rates, Two, Path]:
    rates = Rates()
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[ConfiguredOptimizer(), rates],
        plugins=[WholeCheckpointIO()],
    )
    trainer.fit(module, DataLoader(torch.tensor([3.0, 5.0] * 8), batch_size=2), ckpt_path=checkpoint, weights_only=True)
    path = folder / f"{len(list(folder.iterdir()))}.ckpt"
    trainer.save_checkpoint(path)
    return rates, module, path


@pytest.fixture
def half(tmp_path: Path) -> Path:
    return train(tmp_path, 4, Two(torch.optim.AdamW, weight_decay=0.1))[2]


def test_the_same_numbers_go_on_exactly(half: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole_rates, whole, _ = train(tmp_path, 8, Two(torch.optim.AdamW, weight_decay=0.1))
    with caplog.at_level("INFO", logger="ouroboros3d"):
        rest_rates, rest, _ = train(tmp_path, 8, Two(torch.optim.AdamW, weight_decay=0.1), half)
    assert rest_rates.seen == whole_rates.seen[4:]
    assert torch.equal(rest.one, whole.one)
    assert torch.equal(rest.two, whole.two)
    assert "in place of the checkpoint's" not in caplog.text


def test_other_numbers_are_those_of_the_steps_from_then_on(
    half: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moments = torch.load(half, weights_only=True)["optimizer_states"][0]["state"]
    other = {"lr": 0.02, "weight_decay": 0.0, "betas": (0.5, 0.6), "eps": 1e-5}
    with caplog.at_level("INFO", logger="ouroboros3d"):
        rates, module, path = train(tmp_path, 8, Two(torch.optim.AdamW, **other), half)
    for step, groups in enumerate(rates.seen, 4):
        for group, base in zip(groups, (0.02, 0.2), strict=True):
            assert group["lr"] == pytest.approx(base * learning_rate_factor(step, 1, 8, "cosine"), rel=1e-12)
            assert {name: group[name] for name in ("initial_lr", "weight_decay", "betas", "eps")} == {
                **{name: value for name, value in other.items() if name != "lr"},
                "initial_lr": pytest.approx(base),
            }
    # One step by hand from the checkpoint's moments: the fifth, whose batch is (3, 5).
    one = torch.load(half, weights_only=True)["state_dict"]["one"].clone().requires_grad_()
    byhand = torch.optim.AdamW([one], **{**other, "lr": 0.02 * learning_rate_factor(4, 1, 8, "cosine")})
    byhand.state[one] = {name: value.clone() for name, value in moments[0].items()}
    ((one - torch.tensor([3.0, 5.0])) ** 2).sum().backward()
    byhand.step()
    _, stepped, _ = train(tmp_path, 5, Two(torch.optim.AdamW, **other), half)
    torch.testing.assert_close(stepped.one, one)
    assert "optimizer: lr is 0.02 from here on, in place of the checkpoint's 0.1." in caplog.text
    assert "optimizer: weight_decay is 0.0 from here on, in place of the checkpoint's 0.1." in caplog.text
    # What is saved then is what was done.
    saved = torch.load(path, weights_only=True)
    assert [group["initial_lr"] for group in saved["optimizer_states"][0]["param_groups"]] == pytest.approx([0.02, 0.2])
    assert saved["lr_schedulers"][0]["base_lrs"] == pytest.approx([0.02, 0.2])
    assert module.numbers == other


def test_another_optimiser_is_refused(half: Path, tmp_path: Path) -> None:
    expected = (
        "expected the optimiser that the checkpoint was trained with, torch.optim.adamw.AdamW of 1 and 1 parameters"
    )
    with pytest.raises(ValueError, match=re.escape(expected) + r", got torch\.optim\.sgd\.SGD of 1 and 1 parameters"):
        train(tmp_path, 8, Two(torch.optim.SGD), half)
    frozen = Two(torch.optim.AdamW)
    frozen.configure_optimizers = lambda: {  # type: ignore[method-assign]
        "optimizer": (optimizer := torch.optim.AdamW([frozen.one])),
        "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0),
    }
    with pytest.raises(ValueError, match=r"got torch\.optim\.adamw\.AdamW of 1 parameters; keep model\.optimizer"):
        train(tmp_path, 8, frozen, half)


@pytest.mark.parametrize("name", ["optimizer_states", "lr_schedulers"])
def test_a_checkpoint_without_moments_is_refused(name: str, half: Path, tmp_path: Path) -> None:
    content = torch.load(half, weights_only=True)
    torch.save({**content, name: []}, half)
    with pytest.raises(ValueError, match=f"with one entry of {name}, got 0; weights alone are what --model"):
        train(tmp_path, 8, Two(torch.optim.AdamW, weight_decay=0.1), half)
