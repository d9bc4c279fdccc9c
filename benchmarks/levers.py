"""What each memory and speed lever does to one recursive training step at the paper's scale.

    python benchmarks/levers.py [--names NAME ...] [--out FILE]

On a machine with a GPU peak memory and seconds are measured; without one memory is estimated and the operations are
counted, on fake tensors (`fake_run.py`), and every row says which. A step is one object's, forward and backward with
feedback (heads) at gradients that exist already, as they do while batches are accumulated, then the optimiser's.

Estimated memory is exact for weights, gradients and the optimiser's state. What a step makes is followed storage by
storage, recomputed activations and mixed precision's copies of weights included; what kernels need inside and what the
allocator wastes is not in it, nor is the renderer, which `RENDERER_GIB` bounds.
"""

import argparse
import dataclasses
import gc
import importlib.util
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from fake_run import (
    Config,
    LiveBytes,
    configuration,
    fake_batch,
    fake_model,
    faked,
    random_batch,
    tflops,
    without_files,
)
from step_cost import HEADS, PAPER, TAILS, arguments, training_step

from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D

GIB = 2**30
CARD_GB = 80
# 65,536 splats, each in four tiles, in ten images, twice: 84 bytes are kept for each (tile, splat) pair.
RENDERER_GIB = 65536 * 4 * 10 * 2 * 84 / GIB
UNET, MODEL = "--model.init_args.unet.init_args", "--model.init_args"


@dataclasses.dataclass(frozen=True)
class Lever:
    """A change of the paper's configuration.

    Args:
        name: of the row.
        arguments: of the command line.
        coin: of the step; above p, tails.
        variant: the ablation.
        averaged: a moving average of all weights is kept.
        package: that it needs.
    """

    name: str
    arguments: Sequence[str] = ()
    coin: float = HEADS
    variant: str = "recursive"
    averaged: bool = False
    package: str = "torch"


_NO_CHECKPOINTING = (
    f"{UNET}.gradient_checkpointing=false",
    f"{MODEL}.reconstructor.init_args.gradient_checkpointing=false",
)
_THROUGH = f"{MODEL}.reconstruction_gradient=true"
_OPTIMIZER = "--model.optimizer"
LEVERS = [
    Lever("paper.yaml as it is"),
    Lever("... on tails", coin=TAILS),
    Lever("... staged", variant="staged"),
    Lever("precision: 32-true", ("--trainer.precision=32-true",)),
    Lever("precision: 16-mixed", ("--trainer.precision=16-mixed",)),
    Lever("codec precision: float32", (f"{MODEL}.codec.init_args.precision=float32",)),
    Lever("no gradient checkpointing", _NO_CHECKPOINTING),
    Lever("attention: eager", (f"{UNET}.attention=eager",)),
    Lever("compile: inductor", (f"{UNET}.compile=inductor",)),
    Lever("decode_views: all", (f"{MODEL}.decode_views=all",)),
    Lever("encode_chunk, decode_chunk: 1", tuple(f"{MODEL}.codec.init_args.{w}_chunk=1" for w in ("encode", "decode"))),
    Lever("reconstruction_gradient (graph through the first pass)", (_THROUGH,)),
    Lever("... and the codec's checkpointing", (_THROUGH, f"{MODEL}.codec.init_args.gradient_checkpointing=true")),
    Lever("trainable: temporal", (f"{UNET}.trainable=temporal",)),
    Lever("trainable: new", (f"{UNET}.trainable=new",)),
    Lever("trainable: lora", (f"{UNET}.trainable=lora",)),
    Lever("fused AdamW", (f"{_OPTIMIZER}.init_args.fused=true",)),
    Lever("AdamW8bit", (f"{_OPTIMIZER}=bitsandbytes.optim.AdamW8bit",), package="bitsandbytes"),
    Lever("moving average of the weights", averaged=True),
]


@dataclasses.dataclass(frozen=True)
class Row:
    """What one lever costs, in GiB; `seconds` where it was measured, `tflop` where it was counted."""

    name: str
    peak: float
    static: float
    seconds: float | None = None
    tflop: float | None = None

    def cells(self) -> str:
        """The row of the table."""
        cost = f"{self.seconds:.2f} s | measured" if self.seconds is not None else f"{self.tflop:.1f} TFLOP | estimated"
        margin = CARD_GB * 1e9 / GIB - self.peak
        return f"| {self.name} | {self.static:.1f} | {self.peak:.1f} | {margin:+.1f} | {cost} |"


def static_bytes(model: ImageTo3D, lever: Lever, optimizer: str) -> tuple[int, int, int]:
    """Bytes of weights, of gradients with the optimiser's state, and of what its step makes for a moment."""
    weights = sum(p.nbytes for p in (*model.parameters(), *model.buffers())) * (2 if lever.averaged else 1)
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = sum(p.nbytes for p in trained)
    if optimizer.endswith("8bit"):  # two bytes and two scales a block of 256, small tensors in full precision
        state = sum(2 * p.numel() + 8 * -(-p.numel() // 256) if p.numel() >= 4096 else 8 * p.numel() for p in trained)
        return weights, gradients + state, 0
    return weights, gradients + sum(8 * p.numel() for p in trained), gradients


def estimated(lever: Lever, config: Config) -> Row:
    model, batch = fake_model(config), fake_batch(config)
    optimizer = config["model"]["init_args"]["optimizer"]
    weights, kept, passing = static_bytes(model, lever, optimizer["class_path"])
    if optimizer["init_args"].get("fused"):
        passing = 0
    with faked(config["trainer"]["precision"] or "32-true"):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        with LiveBytes() as made:
            count = tflops(lambda: training_step(model, batch, lever.coin))
    moving = max(made.peak + RENDERER_GIB * GIB, passing)
    return Row(lever.name, (weights + kept + moving) / GIB, (weights + kept) / GIB, tflop=count)


def measured(lever: Lever, config: Config, repeats: int) -> Row:
    model, batch = without_files(config).to("cuda"), random_batch(config).to("cuda")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = model.optimizer(parameters)
    averaged = [p.detach().clone() for p in model.parameters()] if lever.averaged else []
    precision = config["trainer"]["precision"] or "32-true"
    kind = torch.float16 if precision == "16-mixed" else torch.bfloat16
    scaler = torch.amp.GradScaler("cuda", enabled=precision == "16-mixed")

    def step() -> None:
        with torch.autocast("cuda", kind, enabled=precision.endswith("mixed"), cache_enabled=False):
            losses = model.train().training_losses(batch, lever.coin, seed=0)
        scaler.scale(torch.stack(list(losses.values())).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=False)  # as between accumulated batches
        for average, parameter in zip(averaged, model.parameters(), strict=False):
            average.lerp_(parameter.detach(), 0.001)

    for _ in range(2):  # the first makes the optimiser's state, and compiles
        step()
    torch.cuda.synchronize()
    static = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    for _ in range(repeats):
        step()
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / repeats
    return Row(lever.name, torch.cuda.max_memory_allocated() / GIB, static / GIB, seconds=seconds)


def row(lever: Lever, scale: list[Path], repeats: int) -> str:
    """A line of the table."""
    cuda = torch.cuda.is_available()
    if lever.package == "bitsandbytes" and importlib.util.find_spec("bitsandbytes") is None:
        return f"| {lever.name} | | | | | not here: pip install bitsandbytes |"
    if "inductor" in " ".join(lever.arguments) and not cuda:
        return f"| {lever.name} | | | | | the same operations; its seconds need a GPU |"
    try:
        config = configuration(*arguments(lever.variant, scale, *lever.arguments))
        return (measured(lever, config, repeats) if cuda else estimated(lever, config)).cells()
    except torch.OutOfMemoryError:
        return f"| {lever.name} | | | | | measured: out of memory |"
    finally:
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--names", nargs="+", help="rows to make; all by default")
    parser.add_argument("--scale", type=Path, nargs="+", default=[PAPER], help="configurations on top of the ablation")
    parser.add_argument("--repeats", type=int, default=3, help="measured steps of a row")
    parser.add_argument("--out", type=Path, help="file for the table, with command, commit and machine")
    options = parser.parse_args(args)
    known = [lever.name for lever in LEVERS]
    unknown = [name for name in options.names or [] if name not in known]
    if unknown:
        parser.error(f"--names: expected some of {'; '.join(known)}, got {'; '.join(unknown)}.")
    cuda = torch.cuda.is_available()
    lines = [
        f"| one recursive training step | kept GiB | peak GiB | left of {CARD_GB} GB | step | how |",
        "|---|--:|--:|--:|--:|---|",
    ]
    print("\n".join(lines), flush=True)
    for lever in LEVERS:
        if lever.name in (options.names or known):
            lines.append(row(lever, options.scale, options.repeats))
            print(lines[-1], flush=True)
    if options.out:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        command = " ".join(["python benchmarks/levers.py", *(args if args is not None else sys.argv[1:])])
        machine = f"measured on {torch.cuda.get_device_name()}" if cuda else "estimated on fake tensors"
        heading = f"`{command}` at commit {commit or 'unknown'}, {machine}, torch {torch.__version__}."
        options.out.write_text("\n".join([heading, "", *lines, ""]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
