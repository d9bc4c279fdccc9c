"""A process that renders one object after another: `python -m ouroboros3d.datamodules.render_worker MEMORY_MIB`.

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

from ouroboros3d.datamodules.glb_container import AssetError
from ouroboros3d.datamodules.maps import describe_maps, write_maps
from ouroboros3d.datamodules.mesh_files import load_mesh
from ouroboros3d.datamodules.orbits import OrbitRig, orbit_name, write_orbit
from ouroboros3d.datamodules.render_jobs import RenderJob, RenderResult, Stage
from ouroboros3d.datamodules.true_geometry import SAMPLING_SEED, TrueGeometry, surface_name, write_true_geometry
from ouroboros3d.renderers.meshes import MeshRenderer
from ouroboros3d.renderers.rendering import Rendering
from ouroboros3d.renderers.surfaces import carve, inspection_cameras, sample_surface
from ouroboros3d.renderers.textured_mesh import TexturedMesh

_DEPTH_SIZE = 128  # pixels of the depth that solid cells are carved from: at the object, 0.01 of cells of 0.019


def render_object(job: RenderJob) -> RenderResult:
    """Render every orbit of one object that the folder does not hold yet, with maps and true geometry if asked for.

    The orbits appear in falling order: an object whose first orbit is there is complete.
    """
    rig, folder = OrbitRig.from_dict(job.rig), Path(job.folder)
    try:
        mesh, scale, offset = load_mesh(Path(job.path), job.z_up).normalised()
    except AssetError as error:
        return RenderResult(_memory_or("load", error.__context__), str(error))
    renderer = MeshRenderer(supersampling=rig.supersampling, light=rig.light)
    orbits = [rig.cameras(job.uid, orbit) for orbit in range(rig.orbits)]
    try:
        views = [renderer.straight(mesh, cameras, rig.image_size, rig.image_size) for cameras in orbits]
        geometry = _geometry(mesh, job.surface_points, views[0].coordinates[0]) if job.surface_points else None
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
    return RenderResult("done")


def _memory_or(stage: Literal["load", "render"], error: BaseException | None) -> Stage:
    """The stage of a failure, which is `memory` where the limit was met."""
    refused = isinstance(error, RuntimeError) and "allocate memory" in str(error)  # what PyTorch raises
    return "memory" if refused or isinstance(error, MemoryError) else stage


def _geometry(mesh: TexturedMesh, surface_points: int, coordinates: Tensor) -> TrueGeometry:
    """True geometry, with the coordinate maps [F, 3, H, W] of the first orbit."""
    cameras = inspection_cameras()
    depth = MeshRenderer(supersampling=1).straight(mesh, cameras[0], _DEPTH_SIZE, _DEPTH_SIZE).depth[:, :, 0]
    return TrueGeometry(
        sample_surface(mesh, surface_points, SAMPLING_SEED),
        carve(depth, cameras)[0],
        coordinates.permute(0, 2, 3, 1),
    )


def serve(jobs: TextIO, results: TextIO, memory_mib: int) -> None:
    """Answer every job with a result, after one line that says that the imports went well."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_mib * 2**20, memory_mib * 2**20))
    _send(results, RenderResult("ready"))
    for line in jobs:
        job = RenderJob(**json.loads(line))
        # Without a Python handler the alarm ends the process even inside native code that never returns.
        signal.setitimer(signal.ITIMER_REAL, job.timeout_s)
        result = render_object(job)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(results, result)


def _send(results: TextIO, result: RenderResult) -> None:
    results.write(result.to_json() + "\n")
    results.flush()


def main() -> None:
    """Serve on the standard streams; what libraries print goes to stderr instead of between the results."""
    results = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8"), results, int(sys.argv[1]))


if __name__ == "__main__":
    main()
