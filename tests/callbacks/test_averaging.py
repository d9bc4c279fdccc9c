"""The moving average of the weights: its values, and who looks at it."""

from pathlib import Path

import commands
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader, TensorDataset

from ouroboros3d.callbacks.averaging import MovingAverage
from ouroboros3d.cli import main

ROOT = Path(__file__).parents[2]
FIT = [
    *("fit", f"--config={ROOT / 'ablations' / 'staged.yaml'}", f"--config={ROOT / 'tests' / 'tiny.yaml'}"),
    *("--trainer.max_steps=2", "--trainer.limit_val_batches=0"),
]


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
    assert module.weight.item() == 12
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["state_dict"]["weight"].item() == pytest.approx(expected(12, decay), rel=1e-5)
    assert state["current_model_state"]["weight"].item() == 12  # what more steps go on from


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_share_out_of_range_is_one_line(decay):
    with pytest.raises(ValueError, match=rf"moving_average: expected a share in \[0, 1\), got {decay:g}"):
        MovingAverage(decay)


@pytest.mark.parametrize(
    ("options", "averaging"),
    [
        ([], "MovingAverage"),
        (["--moving_average=0"], None),
        (
            ["--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging", "--trainer.callbacks.decay=0.5"],
            "EMAWeightAveraging",
        ),
    ],
)
def test_a_run_has_the_average_that_its_configuration_says(options, averaging, here):
    main([*FIT, *options])
    state = torch.load(here / "runs/staged/version_0/checkpoints/last.ckpt", weights_only=True)
    assert [name for name in state["callbacks"] if "Averag" in name] == ([averaging] if averaging else [])
    assert ("current_model_state" in state) is (averaging is not None)
    name = "reconstructor.conv.bias"
    assert averaging is None or not torch.equal(state["state_dict"][name], state["current_model_state"][name])


def test_the_average_is_where_the_weights_will_be():
    device = torch.device("meta")
    trainer = Trainer(accelerator="cpu", strategy=SingleDeviceStrategy(device), logger=False)
    average, module = MovingAverage(), Counter()
    average.setup(trainer, module, "fit")  # before Lightning moves the module
    assert module.weight.device.type == "cpu"
    assert {parameter.device for parameter in average._average_model.parameters()} == {device}


def test_a_wrong_share_is_one_line(here, capsys):
    line = commands.refusal(capsys, *FIT, "--moving_average=1")
    assert line.endswith("moving_average: expected a share in [0, 1), got 1; 0 keeps no average.")
    assert not (here / "runs").exists()
