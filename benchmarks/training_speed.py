"""How many samples a second training takes in today, over those of the desk scale's step as it was at first.

    python benchmarks/training_speed.py [--repeats N] [--json FILE]

Both are whole steps, from the data to the moved weights, and take turns in one process, on one thread; a ratio is the
median over the turns. It is of processor time, to which other processes add little. A recursive step costs one thing on
heads (feedback) and another on tails; its time is that expected at the coin's p.

At first a step computed in float32, took 8 objects as they are, and had an optimiser that was not fused, which
configuration values still say; two layers had a form that a CPU is slower at, which stands here. Today's is the
configuration as it comes, with the losses in bfloat16 on a CPU that has instructions for it.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from fake_run import built, configuration
from lightning.pytorch.callbacks.weight_averaging import AveragedModel
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D
from ouroboros3d.lightning_modules.precision import training_precision
from ouroboros3d.networks.gaussian_unet import MultiviewAttention
from ouroboros3d.networks.view_convolution import ViewConv

ABLATIONS = Path(__file__).parents[1] / "ablations"
HEADS, TAILS = 0.0, 1.0
AT_FIRST = [
    "--moving_average=0",
    "--model.bfloat16_on_cpu=false",
    "--model.optimizer.init_args.fused=false",
    "--data.batch_size=8",
    "--data.augmentation.mirror=0",
    "--data.augmentation.recolour=0",
]


class AttentionAtFirst(MultiviewAttention):
    """Its sum lay in memory as attention's output does, all channels of a pixel together, and so did what follows."""

    def forward(self, x: Tensor, views: int) -> Tensor:
        """As the class before it."""
        images, channels, height, width = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(images // views, views * height * width, channels)
        mixed = self.attn(tokens).reshape(images, height, width, channels).permute(0, 3, 1, 2)
        return (mixed + x) * 0.5**0.5


class Training:
    """A variant's model, its optimiser and its data, without the Trainer.

    Args:
        options: of a `fit`.
        at_first: whether the layers take their first form.
    """

    def __init__(self, options: list[str], at_first: bool) -> None:
        config = configuration(*options)
        self.model, data = built(config)
        if at_first:
            for part in self.model.modules():
                first = {ViewConv: nn.Conv3d, MultiviewAttention: AttentionAtFirst}.get(type(part))
                part.__class__ = first or part.__class__
        self.model.train()
        self.clip = config["trainer"]["gradient_clip_val"]
        self.optimizer = self.model.learning_rates.optimizer(self.model, self.model.optimizer)
        decay = config["moving_average"]
        averaging = {"use_buffers": False, "multi_avg_fn": get_ema_multi_avg_fn(decay)}
        self.average = AveragedModel(self.model, **averaging) if decay else None
        data.prepare_data()
        data.setup("fit")
        self.batch_size = config["data"]["init_args"]["batch_size"]
        self.batches = self._endless(data.train_dataloader())

    @staticmethod
    def _endless(loader: object) -> Iterator[MultiviewBatch]:
        while True:
            yield from loader  # type: ignore[attr-defined]

    def step(self, coin: float) -> float:
        """Its processor time in seconds."""
        started = time.process_time()
        batch = next(self.batches)
        with training_precision(self.model.device, self.model.bfloat16_on_cpu):
            losses = self.model.training_losses(batch, coin, seed=0)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return time.process_time() - started

    def samples_per_second(self) -> float:
        """Of one turn: of a step, or of one on heads and one on tails as often as the coin makes them."""
        chance = getattr(self.model, "feedback_probability", 1.0)
        expected = chance * self.step(HEADS) + ((1 - chance) * self.step(TAILS) if chance < 1 else 0.0)
        return self.batch_size / expected


def measured(variant: str, scale: list[Path], repeats: int) -> tuple[list[tuple[float, float]], ImageTo3D]:
    """Samples a second of each turn, at first and today, and today's model."""
    options = [f"--config={path}" for path in (ABLATIONS / f"{variant}.yaml", *scale)]
    before, today = Training([*options, *AT_FIRST], at_first=True), Training(options, at_first=False)
    turns = []
    for turn in range(repeats + 1):  # the first one warms up
        rates = before.samples_per_second(), today.samples_per_second()
        label = f"{variant}, turn {turn}" if turn else f"{variant}, warm-up"
        print(f"{label}: {rates[0]:.2f} samples a second at first, {rates[1]:.2f} today", file=sys.stderr)
        turns += [rates] if turn else []
    return turns, today.model


def table(found: dict[str, float]) -> str:
    lines = ["| training step | samples a second at first | today | ratio |", "|---|--:|--:|--:|"]
    for variant in ("staged", "recursive"):
        ratio, low, high = (found[f"{variant}_ratio{end}"] for end in ("", "_smallest", "_largest"))
        rates = " | ".join(f"{found[f'{variant}_samples_per_second{end}']:.1f}" for end in ("_at_first", ""))
        lines.append(f"| {variant} | {rates} | {ratio:.2f} ({low:.2f} to {high:.2f}) |")
    return "\n".join(lines)


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="turns that are measured")
    parser.add_argument("--scale", type=Path, nargs="*", default=[], help="configurations on top of the desk scale")
    parser.add_argument("--json", type=Path, help="file for the ratios")
    options = parser.parse_args(args)
    if options.repeats < 1:
        parser.error(f"--repeats: expected at least 1, got {options.repeats}.")

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    for variant in ("staged", "recursive"):
        turns, model = measured(variant, options.scale, options.repeats)
        ratios = [today / before for before, today in turns]
        found |= {f"{variant}_ratio": statistics.median(ratios)}
        found |= {f"{variant}_ratio_smallest": min(ratios), f"{variant}_ratio_largest": max(ratios)}
        for end, rates in zip(("_at_first", ""), zip(*turns, strict=True), strict=True):
            found[f"{variant}_samples_per_second{end}"] = statistics.median(rates)
        found["bf16"] = not isinstance(training_precision(model.device, model.bfloat16_on_cpu), nullcontext)
    torch.set_num_threads(threads)

    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
