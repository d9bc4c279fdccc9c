"""The moving average of the weights: its values, and who looks at it."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from ouroboros3d.callbacks.averaging import MovingAverage


class Counter(LightningModule):
    """One weight, which every step raises by 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[float] = []

    def training_step(self, batch: object, batch_idx: int) -> torch.Tensor:
        return -self.weight

    def validation_step(self, batch: object, batch_idx: int) -> None:
        self.seen.append(self.weight.item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def expected(steps: int, decay: float) -> float:
    """After the first step the average is the weight; after n more it keeps min(decay, (1 + n) / (10 + n))."""
    average = 1.0
    for count in range(1, steps):
        kept = min(decay, (1 + count) / (10 + count))
        average = kept * average + (1 - kept) * (count + 1)
    return average


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9995])
def test_validation_sees_the_average_and_training_goes_on_with_the_weights(decay, tmp_path):
    module = Counter()
    loader = DataLoader(TensorDataset(torch.zeros(12, 1)))
    trainer = Trainer(
        max_steps=12,
        val_check_interval=4,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        callbacks=[MovingAverage(decay)],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, loader, loader)
    assert module.seen == pytest.approx([expected(steps, decay) for steps in (4, 8, 12)], rel=1e-5)
    assert module.weight.item() == pytest.approx(expected(12, decay), rel=1e-5)  # what is kept at the end
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["state_dict"]["weight"].item() == pytest.approx(expected(12, decay), rel=1e-5)
    assert state["current_model_state"]["weight"].item() == pytest.approx(expected(12, decay), rel=1e-5)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_share_out_of_range_is_one_line(decay):
    with pytest.raises(ValueError, match=rf"decay: expected a share in \[0, 1\), got {decay:g}"):
        MovingAverage(decay)
