"""How fast, how lean and how exact the Gaussian renderer is beside its rivals, side by side in one run.

    python benchmarks/renderer.py [--device cuda] [--backend torch] [--json FILE] [--markdown FILE]

A row is one renderer on one scene: seconds of the forward pass and of the backward pass (the best of a few rounds), the
peak of memory above what was in use before, the largest error of a colour against a float64 rendering without any
search or limit (at a sample of pixels, leaving out those where rounding decides on the 1/255 below which splats are
dropped), and the share of covered pixels whose list of splats was cut. Every case runs in a process of its own.

`ours` is `GaussianRenderer`, `plain` PyTorch3D's point rasterizer over whole images with shading in torch, `pulsar`
PyTorch3D's sphere renderer (another image model, so its error says nothing), `dense` every splat at every pixel in
torch (small scenes only: memory), `gsplat` its CUDA kernels, where they are installed.
"""

import argparse
import importlib.util
import json
import multiprocessing
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from multiprocessing.connection import Connection
from pathlib import Path
from typing import get_args

import rivals
import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.renderers.gaussians import Backend, GaussianRenderer

Render = Callable[[Gaussians, Cameras, int], tuple[Tensor, Tensor]]

# Splats, views and pixels on a side: the desk scale, its double, the target of the CPU part; the size of LGM.
SCENES = {"cpu": [(1024, 8, 32), (4096, 8, 64), (16384, 8, 128)], "cuda": [(16384, 8, 128), (65536, 8, 512)]}
DENSE_LIMIT = 1 << 24  # (splat, pixel) pairs; each takes about 90 bytes
SAMPLE = 256  # pixels of each view that are compared with the float64 rendering


@dataclass(frozen=True)
class Row:
    """One renderer on one scene; memory in MiB."""

    name: str
    device: str
    splats: int
    views: int
    size: int
    forward_s: float
    backward_s: float
    peak_mb: float
    max_error: float
    truncated_fraction: float


def renderers(device: str, backend: Backend) -> dict[str, Render]:
    ours = GaussianRenderer(backend=backend)

    def render_ours(gaussians: Gaussians, cameras: Cameras, size: int) -> tuple[Tensor, Tensor]:
        rendering = ours(gaussians, cameras, size, size)
        return rendering.colour[0], rendering.truncated_fraction

    found: dict[str, Render] = {
        "ours": render_ours,
        "plain": rivals.plain,
        "pulsar": rivals.pulsar,
        "dense": rivals.dense,
    }
    if device == "cuda" and importlib.util.find_spec("gsplat"):
        found["gsplat"] = rivals.gsplat
    return found


def measure(name: str, render: Render, device: str, splats: int, views: int, size: int, rounds: int) -> Row:
    gaussians, cameras = rivals.object_like(splats, views)
    gaussians, cameras = gaussians.to(device), cameras.to(device)
    leaves = Gaussians(*(getattr(gaussians, field.name).requires_grad_() for field in fields(gaussians)))
    target = torch.rand(views, 3, size, size, device=device)
    before = memory(device)
    times = []
    for _ in range(rounds + 1):  # the first one warms up
        begin = clock(device)
        colour, truncated = render(leaves, cameras, size)
        middle = clock(device)
        (colour - target).square().mean().backward()
        times.append((middle - begin, clock(device) - middle))
        if sum(times[0]) > 20:
            break  # seconds; nothing to warm up in a case that slow
    peak = memory(device) - before
    forward, backward = min(times[1:] or times, key=sum)
    worst = error(colour.detach(), gaussians.detach(), cameras, size)
    return Row(name, device, splats, views, size, forward, backward, peak, worst, truncated.item())


def clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def memory(device: str) -> float:
    """The peak so far, MiB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@torch.no_grad()
def error(colour: Tensor, gaussians: Gaussians, cameras: Cameras, size: int) -> float:
    pixels = torch.randperm(size * size, generator=torch.Generator().manual_seed(0))[:SAMPLE].to(colour.device)
    exact, near = rivals.dense_pixels(gaussians.to(dtype=torch.float64), cameras.to(dtype=torch.float64), size, pixels)
    found = colour.flatten(2)[:, :, pixels].transpose(1, 2)
    return float(((found - exact).abs().amax(-1) * (near > 1e-4)).max())


def in_a_process(context: multiprocessing.context.BaseContext, *case: object) -> Row | str:
    """A row measured in a process of its own, or why there is none."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, *case))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return "stopped without a result (out of memory?)"
    finally:
        process.join()


def _child(
    sender: Connection, name: str, device: str, backend: Backend, scene: tuple[int, int, int], rounds: int
) -> None:
    try:
        sender.send(measure(name, renderers(device, backend)[name], device, *scene, rounds))
    except (RuntimeError, ImportError) as failure:  # a rival that cannot run here is a line, not the end
        sender.send(f"{type(failure).__name__}: {str(failure).splitlines()[0]}")


def machine(device: str) -> str:
    """The processor and its cores, without the machine's name."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {torch.get_num_threads()} threads"


def table(rows: list[Row]) -> str:
    lines = ["| renderer | splats | views | px | forward s | backward s | peak MiB | largest error | cut |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    lines += [
        f"| {row.name} | {row.splats:,} | {row.views} | {row.size} | {row.forward_s:.3f} | {row.backward_s:.3f} "
        f"| {row.peak_mb:.0f} | {row.max_error:.1e} | {row.truncated_fraction:.2%} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--backend", choices=get_args(Backend), default="torch", help="of `ours`")
    parser.add_argument("--names", nargs="+", help="renderers to measure; all by default")
    parser.add_argument("--scenes", type=int, default=None, help="how many of the scenes, smallest first")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds; the best one counts")
    parser.add_argument("--json", type=Path, help="file for the rows as a JSON list")
    parser.add_argument("--markdown", type=Path, help="file for the table, with command, commit and machine")
    options = parser.parse_args(args)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device here.")
    known = renderers(options.device, options.backend)
    unknown = [name for name in options.names or [] if name not in known]
    if unknown:
        parser.error(f"--names: expected some of {', '.join(known)}, got {', '.join(unknown)}.")

    # CUDA does not survive a fork; on a CPU a fork saves the imports and starts from the same memory.
    context = multiprocessing.get_context("spawn" if options.device == "cuda" else "fork")
    rows = []
    for scene in SCENES[options.device][: options.scenes]:
        splats, views, size = scene
        for name in options.names or known:
            if name == "dense" and splats * views * size * size > DENSE_LIMIT:
                continue
            row = in_a_process(context, name, options.device, options.backend, scene, options.rounds)
            if isinstance(row, str):
                print(f"{name} at {splats:,} splats: {row}", file=sys.stderr)
                continue
            rows.append(row)
            print(
                f"{name:8s}{splats:7,} splats {views} x {size:3d} px: forward {row.forward_s:.3f} s, "
                f"backward {row.backward_s:.3f} s",
                file=sys.stderr,
            )
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        command = " ".join(["python benchmarks/renderer.py", *(args if args is not None else sys.argv[1:])])
        heading = f"`{command}` at commit {commit or 'unknown'} on {machine(options.device)}, torch {torch.__version__}"
        options.markdown.write_text(f"{heading}\n\n{table(rows)}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
