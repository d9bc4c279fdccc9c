"""What the method costs: a recursive training step over a staged one, and recursive sampling over staged sampling.

    python benchmarks/step_cost.py [--repeats N] [--json FILE]

At desk scale the ratios are measured in one run: the variants take turns on one thread (or on the GPU), and each ratio
is the median over the turns, with the smallest and the largest beside it. On a CPU it is processor time, to which other
processes add little. At the paper's scale the floating-point operations of the same code are counted on fake tensors.

A training step costs one thing on heads (feedback) and another on tails; the ratio is that expected at the coin's p.
Sampling is counted with feedback on every step and with the scale's own `sampler.feedback_every`.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from fake_run import Config, built, configuration, fake_batch, fake_model, faked, tflops

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D

ABLATIONS = Path(__file__).parents[1] / "ablations"
PAPER = ABLATIONS / "scales" / "paper.yaml"
HEADS, TAILS = 0.0, 1.0
_OBJECTS = 2  # of a measured generation


def arguments(variant: str, scale: list[Path], *more: str) -> list[str]:
    return [f"--config={path}" for path in (ABLATIONS / f"{variant}.yaml", *scale)] + list(more)


def training_step(model: ImageTo3D, batch: MultiviewBatch, coin: float) -> None:
    losses = model.train().training_losses(batch, coin, seed=0)
    # Not the tensor's own method, in which mocked functions are not seen when a checkpoint is computed again.
    torch.autograd.backward(torch.stack(list(losses.values())).sum())


def generation(model: ImageTo3D, batch: MultiviewBatch, steps: int, feedback_every: int) -> None:
    model.sampler = replace(model.sampler, num_steps=steps, feedback_every=feedback_every)
    model.eval().generate(batch.input_images_01, batch.cameras, batch.background, batch.uids)


def measured(scale: list[Path], repeats: int) -> dict[str, list[float]]:
    """Ratios of each turn by name: `heads`, `tails`, `train` and `sample`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {}
    for variant in ("staged", "recursive"):
        model, data = built(configuration(*arguments(variant, scale)))
        models[variant] = model.to(device)
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader())).to(device)
    some = batch[:_OBJECTS]
    chance, every = models["recursive"].feedback_probability, models["recursive"].sampler.feedback_every
    optimizers = {
        variant: model.optimizer([p for p in model.parameters() if p.requires_grad])
        for variant, model in models.items()
    }

    def train(variant: str, coin: float) -> Callable[[], None]:
        def step() -> None:
            training_step(models[variant], batch, coin)
            optimizers[variant].step()
            optimizers[variant].zero_grad()

        return step

    def sample(variant: str) -> Callable[[], None]:
        return lambda: generation(models[variant], some, models[variant].sampler.num_steps, every)

    def seconds(work: Callable[[], None]) -> float:
        if device == "cuda":
            torch.cuda.synchronize()
            started = time.perf_counter()
            work()
            torch.cuda.synchronize()
            return time.perf_counter() - started
        started = time.process_time()
        work()
        return time.process_time() - started

    turns: dict[str, list[float]] = {"heads": [], "tails": [], "train": [], "sample": []}
    for turn in range(repeats + 1):  # the first one warms up
        staged, heads, tails = (
            seconds(train(*step)) for step in (("staged", HEADS), ("recursive", HEADS), ("recursive", TAILS))
        )
        sampled = [seconds(sample(variant)) for variant in ("staged", "recursive")]
        expected = chance * heads + (1 - chance) * tails
        values = (heads / staged, tails / staged, expected / staged, sampled[1] / sampled[0])
        print(
            f"turn {turn}{'' if turn else ' (warm-up)'}: staged step {staged:.2f} s, heads {heads:.2f}, "
            f"tails {tails:.2f}; staged sampling {sampled[0]:.2f} s, recursive {sampled[1]:.2f}",
            file=sys.stderr,
        )
        if turn:
            for name, value in zip(turns, values, strict=True):
                turns[name].append(value)
    return turns


def counted(scale: list[Path]) -> dict[str, float]:
    """TFLOP by name at a scale: of training steps and of whole generations."""
    configs = {variant: configuration(*arguments(variant, scale)) for variant in ("staged", "recursive")}
    models = {variant: fake_model(config) for variant, config in configs.items()}
    batch = fake_batch(configs["staged"])
    with faked(configs["staged"]["trainer"]["precision"] or "32-true"):
        found = {
            name: tflops(lambda model=models[variant], coin=coin: training_step(model, batch, coin))
            for name, variant, coin in (
                ("staged_step", "staged", HEADS),
                ("heads", "recursive", HEADS),
                ("tails", "recursive", TAILS),
            )
        }
        own = models["recursive"].sampler.feedback_every
        for name, variant, every in (
            ("staged_sampling", "staged", 1),
            ("sample_every_step", "recursive", 1),
            ("sample", "recursive", own),
        ):
            found[name] = whole_generation(models[variant], batch, every)
    chance = models["recursive"].feedback_probability
    return {**found, "train": chance * found["heads"] + (1 - chance) * found["tails"]}


def whole_generation(model: ImageTo3D, batch: MultiviewBatch, every: int) -> float:
    """TFLOP of a generation, from two short ones: each further period of the feedback costs the same."""
    steps = model.sampler.num_steps
    first = (steps - 1) % every + 1  # the steps that are not whole periods
    low, high = (tflops(lambda n=first + every * k: generation(model, batch, n, every)) for k in (1, 2))
    model.sampler = replace(model.sampler, num_steps=steps)
    return low + (high - low) * ((steps - first) // every - 1)


def summary(turns: dict[str, list[float]], flops: dict[str, float], config: Config) -> dict[str, float]:
    """The ratios by their keys in the JSON file."""
    found: dict[str, float] = {}
    for name, values in turns.items():
        found[f"{name}_ratio_desk"] = statistics.median(values)
        found |= {f"{name}_ratio_desk_smallest": min(values), f"{name}_ratio_desk_largest": max(values)}
    for name in ("train", "heads", "tails", "sample", "sample_every_step"):
        over = "staged_sampling" if name.startswith("sample") else "staged_step"
        found[f"{name}_ratio_paper_flops"] = flops[name] / flops[over]
    sampler = config["model"]["init_args"]["sampler"]
    return {**found, "paper_feedback_every": sampler["feedback_every"], "paper_num_steps": sampler["num_steps"]}


def table(found: dict[str, float], flops: dict[str, float]) -> str:
    def row(title: str, desk: str | None, paper: str, over: str) -> str:
        measured = ""
        if desk:
            middle, low, high = (found[f"{desk}_ratio_desk{end}"] for end in ("", "_smallest", "_largest"))
            measured = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        counted = f"{found[f'{paper}_ratio_paper_flops']:.2f} | {flops[paper]:.1f} over {flops[over]:.1f}"
        return f"| {title} | {measured} | {counted} |"

    every = found["paper_feedback_every"]
    return "\n".join(
        [
            "| recursive over staged | desk scale, measured | paper's scale, counted | TFLOP |",
            "|---|--:|--:|--:|",
            row("training step, expected", "train", "train", "staged_step"),
            row("training step on heads", "heads", "heads", "staged_step"),
            row("training step on tails", "tails", "tails", "staged_step"),
            row("sampling, feedback on every step", "sample", "sample_every_step", "staged_sampling"),
            row(f"sampling, feedback_every: {every}", None, "sample", "staged_sampling"),
        ]
    )


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--repeats", type=int, default=5, help="turns that are measured")
    parser.add_argument("--desk", type=Path, nargs="*", default=[], help="configurations on top of the desk scale")
    parser.add_argument("--paper", type=Path, nargs="+", default=[PAPER], help="the scale that is counted")
    parser.add_argument("--json", type=Path, help="file for the ratios and the TFLOP that they come from")
    options = parser.parse_args(args)
    if options.repeats < 1:
        parser.error(f"--repeats: expected at least 1, got {options.repeats}.")

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    turns = measured(options.desk, options.repeats)
    torch.set_num_threads(threads)
    flops = counted(options.paper)
    found = summary(turns, flops, configuration(*arguments("recursive", options.paper)))

    print(table(found, flops))
    if options.json:
        values = {**found, **{f"{name}_paper_tflop": value for name, value in flops.items()}}
        options.json.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
