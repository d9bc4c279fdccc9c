"""What a stretch of work costs: calls, pixels that were cut off, time and memory, without what only watches it."""

import time

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from tiny_variants import parts, two_objects
from torch.utils.data import DataLoader, TensorDataset

from ouroboros3d.callbacks.statistics import RunStatistics
from ouroboros3d.diffusion.sampling import Step
from ouroboros3d.lightning_modules.cost import CostMeter
from ouroboros3d.lightning_modules.recursive import Recursive


def test_pauses_count_neither_time_nor_memory() -> None:
    meter = CostMeter(torch.device("cpu"))
    with meter.running(), meter.paused():
        paused = torch.ones(64 * 2**18)  # 64 MiB
        time.sleep(0.2)
        del paused
    seconds, quiet = meter.seconds, meter.peak_mib
    assert seconds < 0.1
    with meter.running():
        held = torch.ones(48 * 2**18)
        time.sleep(0.05)
    assert meter.seconds >= seconds + 0.05
    # The 48 MiB are resident, the 64 of the pause are not; the allocator may keep a few pages of either.
    assert 40 < meter.peak_mib - quiet < 60
    del held


def test_what_an_observer_does_is_in_no_cost_whatever_it_calls() -> None:
    module, batch = Recursive(**parts(("colour",))).eval(), two_objects()

    def look(step: Step) -> None:
        gaussians = module.reconstruct_latents(step.estimate, batch.cameras, torch.tensor(step.sigma))
        module.encode(module.render(gaussians, batch.cameras, (16, 16), batch.background).colour.clamp(0, 1))

    given = (batch.input_images_01, batch.cameras, batch.background, batch.uids)
    alone = module.generate(*given).cost
    cut = module.meter.truncated
    watched = module.generate(*given, observers=[look]).cost
    times = {"seconds", "peak_memory_mib"}
    assert {name: watched[name] for name in watched.keys() - times} == {n: alone[n] for n in alone.keys() - times}
    assert alone["recon_calls"] == 5  # four of the five steps and the result
    assert torch.equal(module.meter.truncated, cut)


class Growing(LightningModule):
    """Takes 64 MiB in its second step, and 128 in its validations, which measure their own cost."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.peaks: list[float] = []

    def training_step(self, batch: object, batch_idx: int) -> torch.Tensor:
        torch.ones(64 * 2**18 if self.global_step == 1 else 1)
        return self.weight * 1.0

    def on_train_batch_end(self, *_: object) -> None:
        self.peaks.append(float(self.trainer.callback_metrics["train/peak_memory_mib"]))

    def validation_step(self, batch: object, batch_idx: int) -> None:
        meter = CostMeter(self.device)
        with meter.running():
            torch.ones(128 * 2**18)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def test_the_peak_of_training_stays_over_validations_which_are_not_in_it() -> None:
    module = Growing()
    loader = DataLoader(TensorDataset(torch.zeros(6)))
    trainer = Trainer(
        max_steps=6,
        val_check_interval=3,
        num_sanity_val_steps=0,
        accelerator="cpu",
        callbacks=[RunStatistics(warmup_steps=0)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, loader)
    first, *later = module.peaks
    assert later == pytest.approx([first + 64] * 5, abs=10)  # the allocator may keep some pages
