"""A process that renders objects one by one: `python -m ouroboros3d.datamodules.rendering.worker MEMORY_MIB DEVICE`.

Assets come from anywhere, and a bad one may hang, exhaust the memory or crash native code, so none is opened in the
training process. Jobs arrive as JSON lines on stdin, results leave as JSON lines on stdout; a process of its own (not
`multiprocessing`) works from any parent: a script without a main guard, a notebook, a forked rank.
"""

import io
import json
import os
import resource
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Literal, TextIO

import torch
from torch import Tensor

from ouroboros3d.datamodules.meshes.errors import AssetError
from ouroboros3d.datamodules.meshes.loading import load_mesh
from ouroboros3d.datamodules.orbits.maps import describe_maps, write_maps
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.orbits.true_geometry import SAMPLING_SEED, TrueGeometry, surface_name, write_true_geometry
from ouroboros3d.datamodules.orbits.writing import orbit_name, write_orbit
from ouroboros3d.datamodules.rendering.doubts import doubt
from ouroboros3d.datamodules.rendering.jobs import RenderJob, RenderResult, Stage
from ouroboros3d.datamodules.untrusted import allocated_bytes, no_memory
from ouroboros3d.renderers.meshes import MeshRenderer
from ouroboros3d.renderers.rendering import Rendering
from ouroboros3d.renderers.surface_fusion import carve, inspection_cameras, sample_surface
from ouroboros3d.renderers.textured_mesh import Material, TexturedMesh

_DEPTH_SIZE = 128  # pixels of the depth that solid cells are carved from: at the object, 0.01 of cells of 0.019


def render_object(job: RenderJob, device: str = "cpu") -> RenderResult:
    """Render every orbit of one object that the folder does not hold yet, with maps and true geometry if asked for.

    The orbits appear in falling order: an object whose first orbit is there is complete.

    Args:
        job: the object.
        device: that the views are rendered on; assets are read on the CPU.

    Raises:
        torch.AcceleratorError: the GPU failed, and this process cannot use it any more.
    """
    rig, folder = OrbitRig.from_dict(job.rig), Path(job.folder)
    try:
        mesh, scale, offset = load_mesh(Path(job.path), job.z_up).normalised()
    except AssetError as error:
        return RenderResult(_memory_or("load", error.__context__), str(error))
    except OSError as error:  # the machine is to blame, and the next object would meet it too
        return RenderResult("write", str(error))
    renderer = MeshRenderer(supersampling=rig.supersampling, light=rig.light)
    orbits = [rig.cameras(job.uid, orbit) for orbit in range(rig.orbits)]
    try:
        mesh = mesh.to(device)
        views = [
            _on_cpu(renderer.straight(mesh, cameras.to(device), rig.image_size, rig.image_size)) for cameras in orbits
        ]
        geometry = _geometry(mesh, job.surface_points, views[0].coordinates[0]) if job.surface_points else None
    except torch.AcceleratorError:
        raise
    except (ValueError, RuntimeError, MemoryError) as error:
        return RenderResult(_memory_or("render", error), f"{type(error).__name__}: {error}")
    if not any(bool((rendering.alpha > 0.5).any()) for rendering in views):
        return RenderResult("render", "nothing of the object is visible in any view")
    elevations = rig.elevations_deg(job.uid)
    details = {
        "object": {"uid": job.uid, "source": job.source, "license": job.license, "sha256": job.sha256},
        "normalization": {"scale": scale, "offset": offset.tolist()},
        **describe_maps(job.maps, rig.radius),
    }
    first = folder / orbit_name(job.uid, 0)

    def write_beside(inside: Path, orbit: int, rendering: Rendering) -> None:
        write_maps(inside, rendering, job.maps, rig.radius)
        if geometry is not None and orbit == 0:
            write_true_geometry(inside, geometry)

    try:
        for orbit, rendering in reversed(list(enumerate(views))):
            rgba = torch.cat([rendering.colour, rendering.alpha], dim=2)[0]
            write_orbit(
                folder / orbit_name(job.uid, orbit),
                (rgba * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous(),
                orbits[orbit],
                fov_deg=rig.fov_deg,
                details=details
                | {"orbit": {"elevation_deg": elevations[orbit], "radius": rig.radius, "num_views": rig.views}},
                beside=partial(write_beside, orbit=orbit, rendering=rendering),
            )
        if geometry is not None and not (first / surface_name(job.surface_points)).is_file():
            write_true_geometry(first, geometry)  # the views were there already
    except OSError as error:
        return RenderResult("write", str(error))
    return RenderResult("done", doubt=doubt(views), notes=mesh.notes)


def _memory_or(stage: Literal["load", "render"], error: BaseException | None) -> Stage:
    """The stage of a failure, which is `memory` where the limit was met."""
    return "memory" if no_memory(error) or isinstance(error, torch.OutOfMemoryError) else stage


def _on_cpu(rendering: Rendering) -> Rendering:
    return rendering._replace(**{name: field.cpu() for name, field in rendering._asdict().items() if field is not None})


def _geometry(mesh: TexturedMesh, surface_points: int, coordinates: Tensor) -> TrueGeometry:
    """True geometry, with the coordinate maps [F, 3, H, W] of the first orbit."""
    cameras = inspection_cameras().to(mesh.vertices.device)
    depth = MeshRenderer(supersampling=1).straight(mesh, cameras[0], _DEPTH_SIZE, _DEPTH_SIZE).depth[:, :, 0]
    return TrueGeometry(
        sample_surface(mesh, surface_points, SAMPLING_SEED).to("cpu"),
        carve(depth, cameras)[0].cpu(),
        coordinates.permute(0, 2, 3, 1),
    )


def serve(jobs: TextIO, results: TextIO, memory_mib: int, device: str) -> None:
    """Answer every job with a result, after one line that says that the start went well."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    taken = 0 if device == "cpu" else _start_cuda(memory_mib, device)
    limit = memory_mib * 2**20 + taken
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    _send(results, RenderResult("ready"))
    for line in jobs:
        job = RenderJob(**json.loads(line))
        # Without a Python handler the alarm ends the process even inside native code that never returns.
        signal.setitimer(signal.ITIMER_REAL, job.timeout_s)
        result = render_object(job, device)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if device != "cpu":
            torch.cuda.empty_cache()  # workers that share the GPU find what this one does not use
        _send(results, result)


def _start_cuda(memory_mib: int, device: str) -> int:
    """Start CUDA and limit its memory: what it takes of the host's, in bytes.

    It maps more there than an object may use, so it starts before the host's memory is limited, and the limit leaves
    room for it. A triangle is rendered because kernels are loaded when they are first run.
    """
    if not torch.cuda.is_available():
        sys.exit("expected a CUDA device, got none that torch sees")
    before = allocated_bytes()
    torch.cuda.set_device(torch.zeros(1, device=device).device)
    torch.use_deterministic_algorithms(True, warn_only=True)  # the same bytes whenever an object is rendered again
    corners = torch.tensor([[-0.5, -0.5, 0.0], [0.5, -0.5, 0.0], [0.0, 0.5, 0.0]])
    white = Material(texture=torch.full((4, 4, 4), 255, dtype=torch.uint8))
    triangle = TexturedMesh(corners, torch.arange(3)[None], torch.rand(1, 3, 2), torch.zeros(1).long(), (white,))
    _geometry(triangle.to(device), 1, torch.zeros(1, 3, 1, 1))
    share = memory_mib * 2**20 / torch.cuda.get_device_properties().total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, share))
    return allocated_bytes() - before


def _send(results: TextIO, result: RenderResult) -> None:
    results.write(result.to_json() + "\n")
    results.flush()


def main() -> None:
    """Serve on the standard streams; what libraries print goes to stderr instead of between the results."""
    results = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8"), results, int(sys.argv[1]), sys.argv[2])


if __name__ == "__main__":
    main()
