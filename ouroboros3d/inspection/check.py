"""All that is looked at in a tree of posed renders: every image, and the cameras and maps of a sample of objects."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.posed import PosedReader
from ouroboros3d.datamodules.readers.poses import Convention
from ouroboros3d.inspection.camera_checks.diagnosis import Diagnosis, diagnose, find_up
from ouroboros3d.inspection.camera_checks.silhouette_fit import FITS, ViewSet, views_to_test
from ouroboros3d.inspection.camera_checks.statistics import CameraStatistics
from ouroboros3d.inspection.images import Images, inspect_views
from ouroboros3d.inspection.maps import Maps, look_at_maps
from ouroboros3d.inspection.pool import Died, in_processes

# Objects on which every hypothesis is tried, some seconds each: enough to outvote symmetric ones.
_PROBED = 12
_MISFITS = 64  # more objects that do not fit are not looked into one by one


@dataclass(frozen=True)
class Check:
    """What was found in a tree.

    Args:
        images: of every object.
        misfits: of the objects whose cameras were tested, in pixels.
        complete: whether these are all objects that can be tested, not a sample of them.
        extents: longest edges of their hulls, scene units, with mended cameras.
        maps: of the tested objects that have some and whose cameras fit.
        diagnosis: of the tested objects.
        stored: what the reader takes poses for.
        statistics: of all cameras.
    """

    images: Sequence[Images]
    misfits: Mapping[str, float]
    complete: bool
    extents: Mapping[str, float]
    maps: Mapping[str, Maps]
    diagnosis: Diagnosis
    stored: Convention | None
    statistics: CameraStatistics


def check_tree(tree: PosedReader, sample: int, workers: int, progress: Progress) -> Check:
    """Look at a tree.

    Args:
        tree: of posed renders.
        sample: objects whose cameras and maps are tested, evenly chosen.
        workers: processes that read; the result is the same with any number.
        progress: shows how far it is.
    """
    uids = tree.uids
    chosen = {uids[int(place)] for place in np.linspace(0, len(uids) - 1, min(sample, len(uids))).round()}
    work = partial(_look, tree, chosen)
    read: dict[str, _Seen] = {}
    with closing(in_processes(work, uids, workers)) as results:
        for uid, answer in progress.track(results, len(uids), description="reading views"):
            if isinstance(answer, Died):
                answer = _Seen(Images(uid, SampleError(f"{uid}: the process that read it ended: {answer.how}.")))
            read[uid] = answer
    seen = [read[uid] for uid in uids]
    images = [replace(one.images, cameras=one.poses.cameras if one.poses else None) for one in seen]
    tested = {one.images.uid: one for one in seen if one.misfit is not None}
    misfits = {uid: one.misfit for uid, one in tested.items() if one.misfit is not None}
    extents = {uid: one.extent for uid, one in tested.items()}
    sets = [one for uid in _probed(misfits) if (one := view_set(*inspect_views(tree, uid)))]
    bar = progress.add_task("testing conventions", total=len(sets))
    diagnosis = diagnose(sets, tree.stored_poses, lambda: progress.advance(bar))
    cameras = {one.uid: one.cameras for one in images if one.cameras is not None}
    find_up(cameras, tree.stored_poses, diagnosis)
    for one in sets:
        if one.uid in diagnosis.mended:
            extents[one.uid] = one.seen_by(diagnosis.mended[one.uid]).hull.extent
        elif one.uid in diagnosis.unexplained:
            del extents[one.uid]
    wrong = any(explanation.of_all for explanation in diagnosis.explanations)
    if not wrong:
        tried = {one.uid for one in sets}
        diagnosis.unexplained += [uid for uid in misfits if misfits[uid] > FITS and uid not in tried]
    maps = {} if wrong else {one.images.uid: one.maps for one in seen if one.maps is not None}
    complete = len(chosen) == len(uids)
    return Check(
        images, misfits, complete, extents, maps, diagnosis, tree.stored_poses, CameraStatistics.of(cameras.values())
    )


@dataclass(frozen=True)
class _Poses:
    """Cameras on their way between processes: as tensors, each would hold a file open."""

    c2w_opencv: NDArray[np.float32]
    intrinsics_norm: NDArray[np.float32]

    @classmethod
    def of(cls, cameras: Cameras | None) -> "_Poses | None":
        return None if cameras is None else cls(cameras.c2w_opencv.numpy(), cameras.intrinsics_norm.numpy())

    @property
    def cameras(self) -> Cameras:
        return Cameras(torch.from_numpy(self.c2w_opencv), torch.from_numpy(self.intrinsics_norm))


@dataclass(frozen=True)
class _Seen:
    images: Images
    poses: _Poses | None = None
    misfit: float | None = None
    extent: float = 0.0
    maps: Maps | None = None


def _look(tree: PosedReader, chosen: set[str], uid: str) -> _Seen:
    """Everything about one object that needs its files."""
    torch.set_num_threads(1)  # the processes share the cores already
    try:
        images, alpha = inspect_views(tree, uid)
    except OSError as error:  # no permission, or a disk that fails: an object to name, not the end of the check
        return _Seen(Images(uid, SampleError(f"{uid}: expected views that can be read here, got {error}.")))
    one = view_set(images, alpha) if uid in chosen else None
    fits = uid in chosen and images.cameras is not None and (one is None or one.fits)
    maps = look_at_maps(tree.read(uid)) if fits else None
    misfit, extent = (one.misfit, one.hull.extent) if one else (None, 0.0)
    return _Seen(replace(images, cameras=None), _Poses.of(images.cameras), misfit, extent, maps)


def view_set(images: Images, alpha: torch.Tensor | None) -> ViewSet | None:
    """What the cameras of an object are tested with; None if it cannot be.

    Args:
        images: of the object.
        alpha: [T, h, w] in [0, 1] of the views that are tested; None where a view has none.
    """
    if alpha is None or images.cameras is None:
        return None
    tested = views_to_test(images.views)
    one = ViewSet.of(images.uid, images.cameras[list(tested)], alpha, tested)
    return one if one.testable else None


def _probed(misfits: Mapping[str, float]) -> list[str]:
    """Objects that every hypothesis is tried on: those that fit worst, and evenly chosen ones."""
    worst = sorted((uid for uid in misfits if misfits[uid] > FITS), key=lambda uid: -misfits[uid])
    even = [list(misfits)[int(place)] for place in np.linspace(0, len(misfits) - 1, min(_PROBED, len(misfits)))]
    return list(dict.fromkeys([*even, *worst[:_MISFITS]]))
