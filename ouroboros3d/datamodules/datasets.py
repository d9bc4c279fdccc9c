"""From cached views to batches: which views of an object make a sample, in which order, on which background.

Every random choice is a function of (seed, epoch, repeat, uid), never of a stream that workers, resumption or another
split could shift: the same step sees the same sample with any number of workers, and an interrupted epoch continues
where it stopped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.orbits import OrbitRig, SampleError, read_orbit
from ouroboros3d.datamodules.render_cache import RenderCache
from ouroboros3d.datamodules.splits import hashed_integer, hashed_uniform
from ouroboros3d.datamodules.true_geometry import TrueGeometry
from ouroboros3d.surface import Surface

Background = Literal["white", "grey", "black", "random"]
_LEVELS: dict[Background, float] = {"white": 1.0, "grey": 0.5, "black": 0.0, "random": 1.0}


def solid_colour(background: Background) -> Tensor:
    """The colour [3] of a background where nothing is drawn at random: `random` is white."""
    return torch.full((3,), _LEVELS[background])


class Draw(NamedTuple):
    """What a training sampler asks for: the dataset's object number `item`, for the `repeat`-th time in this epoch."""

    item: int
    epoch: int
    repeat: int


@dataclass(frozen=True)
class Sample:
    """V generated and T novel views of one object, undecided about the device and not yet composited.

    Args:
        uid: the object.
        rgba: [V + T, H, W, 4] uint8, straight alpha; the input view first.
        cameras: [V + T] in the object's frame.
        background: [3] in [0, 1].
        geometry: true geometry in the object's frame, its V coordinate maps those of the generated views, or None.
    """

    uid: str
    rgba: Tensor
    cameras: Cameras
    background: Tensor
    geometry: TrueGeometry | None = None


class CachedViews:
    """Decoded views of the objects of a cache, kept in memory up to a limit and read from disk beyond it.

    Args:
        cache: where the orbits are.
        memory_limit_mb: MiB of decoded views to keep.
    """

    def __init__(self, cache: RenderCache, memory_limit_mb: int) -> None:
        self.rig: OrbitRig = cache.rig
        self._cache = cache
        self._free = memory_limit_mb * 2**20
        self._kept: dict[str, tuple[Tensor, Cameras]] = {}

    def keep(self, uids: Sequence[str]) -> None:
        """Decode these objects now, as far as the memory limit reaches."""
        for uid in uids:
            if uid in self._kept:
                continue
            size = self.rig.orbits * self.rig.views * self.rig.image_size**2 * 4
            if size > self._free:
                return
            self._kept[uid] = self._read(uid)
            self._free -= size

    def __getitem__(self, uid: str) -> tuple[Tensor, Cameras]:
        """Views [orbits * views, H, W, 4] uint8 and cameras [orbits * views], orbit by orbit.

        Raises:
            SampleError: a view that was in the cache is gone or broken.
        """
        return self._kept[uid] if uid in self._kept else self._read(uid)

    def true_geometry(self, uid: str, surface_points: int) -> TrueGeometry:
        """The true geometry of an object, with coordinate maps of its first orbit's views.

        Raises:
            SampleError: it was not written, or is broken.
        """
        return self._cache.true_geometry(uid, surface_points)

    def _read(self, uid: str) -> tuple[Tensor, Cameras]:
        orbits = [read_orbit(folder) for folder in self._cache.orbit_folders(uid)]
        rgba = torch.cat([orbit.rgba for orbit in orbits])
        if len(rgba) != self.rig.orbits * self.rig.views:
            expected = self.rig.orbits * self.rig.views
            raise SampleError(f"{uid}: expected {expected} views in {self._cache.folder}, got {len(rgba)}.")
        return rgba, Cameras.cat([orbit.cameras for orbit in orbits], dim=0)


class MultiviewDataset(Dataset[Sample]):
    """Samples of V evenly spread views of one orbit and T novel views.

    Indexed by `Draw` (training: random orbit, input view, novel views, background) or by an integer (the one fixed
    sample of that object, whatever the seed).

    Args:
        views: the decoded cache.
        uids: the objects.
        num_views: V, a divisor of the views per orbit.
        num_target_views: T.
        background: what the views are composited on; `random` is white in fixed samples.
        seed: of the random samples.
        surface_points: points of the true surface in fixed samples; 0 = no true geometry.
    """

    def __init__(
        self,
        views: CachedViews,
        uids: Sequence[str],
        num_views: int,
        num_target_views: int,
        background: Background,
        seed: int,
        surface_points: int = 0,
    ) -> None:
        self.views = views
        self.uids = list(uids)
        self.num_views = num_views
        self.num_target_views = num_target_views
        self.background = background
        self.seed = seed
        self.surface_points = surface_points

    def __len__(self) -> int:
        """How many objects."""
        return len(self.uids)

    def __getitem__(self, key: Draw | int) -> Sample:
        """One sample.

        Raises:
            SampleError: a view that was in the cache is gone or broken.
        """
        geometry = None
        if isinstance(key, Draw):
            uid = self.uids[key.item]
            orbit, start, targets, background = self._drawn(uid, key)
        else:
            uid = self.uids[key]
            orbit, start, targets, background = self._fixed(uid)
            if self.surface_points:
                whole = self.views.true_geometry(uid, self.surface_points)
                geometry = replace(whole, coordinates=whole.coordinates[self._generated(orbit, start)])
        rgba, cameras = self.views[uid]
        chosen = torch.tensor(self._generated(orbit, start) + targets)
        return Sample(uid, rgba[chosen], cameras[chosen], background, geometry)

    def _generated(self, orbit: int, start: int) -> list[int]:
        frames = self.views.rig.views
        step = frames // self.num_views
        return [orbit * frames + (start + step * view) % frames for view in range(self.num_views)]

    def _others(self, orbit: int, start: int) -> list[int]:
        used = set(self._generated(orbit, start))
        return [frame for frame in range(self.views.rig.orbits * self.views.rig.views) if frame not in used]

    def _drawn(self, uid: str, draw: Draw) -> tuple[int, int, list[int], Tensor]:
        seed = hashed_integer("sample", self.seed, draw.epoch, draw.repeat, uid)
        generator = torch.Generator().manual_seed(seed)
        rig = self.views.rig
        orbit = int(torch.randint(rig.orbits, (), generator=generator))
        start = int(torch.randint(rig.views, (), generator=generator))
        others = self._others(orbit, start)
        order = torch.randperm(len(others), generator=generator)[: self.num_target_views]
        if self.background == "random":
            background = torch.rand(3, generator=generator)
        else:
            background = solid_colour(self.background)
        return orbit, start, [others[int(place)] for place in order], background

    def _fixed(self, uid: str) -> tuple[int, int, list[int], Tensor]:
        others = sorted(self._others(0, 0), key=lambda frame: hashed_uniform("target", uid, frame))
        return 0, 0, others[: self.num_target_views], solid_colour(self.background)


def collate(samples: Sequence[Sample], num_views: int) -> MultiviewBatch:
    """Composite the samples and bring each into its input-relative frame.

    Args:
        samples: B samples of V + T views.
        num_views: V.
    """
    background = torch.stack([sample.background for sample in samples])
    rgba = torch.stack([sample.rgba for sample in samples]).permute(0, 1, 4, 2, 3).float() / 255
    alpha = rgba[:, :, 3:]
    images = rgba[:, :, :3] * alpha + background[:, None, :, None, None] * (1 - alpha)
    cameras, object_from_batch = Cameras(
        torch.stack([sample.cameras.c2w_opencv for sample in samples]),
        torch.stack([sample.cameras.intrinsics_norm for sample in samples]),
    ).relative_to_first()
    geometries = [sample.geometry for sample in samples if sample.geometry is not None]
    geometry = _relative_geometry(geometries, object_from_batch) if len(geometries) == len(samples) else {}
    return MultiviewBatch(
        uids=tuple(sample.uid for sample in samples),
        images_01=images[:, :num_views],
        alpha=alpha[:, :num_views],
        cameras=cameras[:, :num_views],
        target_images_01=images[:, num_views:],
        target_alpha=alpha[:, num_views:],
        target_cameras=cameras[:, num_views:],
        background=background,
        object_from_batch=object_from_batch,
        **geometry,
    ).validate()


def _relative_geometry(geometries: Sequence[TrueGeometry], object_from_batch: Tensor) -> dict[str, Any]:
    """True geometry of B objects by the batch's names, with the coordinate maps in the input-relative frame."""
    batch_from_object = torch.linalg.inv(object_from_batch.double()).float()
    maps = torch.stack([geometry.coordinates for geometry in geometries])  # [B, V, H, W, 3]
    turn, shift = batch_from_object[:, None, None, :3, :3], batch_from_object[:, None, None, None, :3, 3]
    return {
        "surface": Surface.cat([geometry.surface for geometry in geometries]),
        "occupancy": torch.stack([geometry.occupancy for geometry in geometries]),
        "coordinates": (maps @ turn.transpose(-1, -2) + shift).permute(0, 1, 4, 2, 3).contiguous(),
    }


class DrawSampler(DistributedSampler[Sample]):
    """An endless stream of draws, dealt to the ranks in turn: epoch after epoch, every object `repeats` times in each.

    One iteration yields about an epoch of it, whole batches only, from `start` on; a batch may reach into the next
    epoch, so nothing is dropped and nothing padded. A `DistributedSampler` because Lightning leaves those in place
    under every strategy; the epoch that it announces is not needed, the place in the stream says it.

    Args:
        dataset: the objects.
        repeats: draws of each object per epoch.
        batch_size: draws per batch on each rank.
        seed: of the order.
        num_replicas: processes that train together.
        rank: this one.
    """

    def __init__(
        self, dataset: MultiviewDataset, repeats: int, batch_size: int, seed: int, num_replicas: int, rank: int
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, seed=seed)
        self.repeats = repeats
        self.objects = len(dataset)
        self.num_samples = batch_size * max(1, self.objects * repeats // (batch_size * num_replicas))
        self.total_size = self.num_samples * num_replicas
        self.start = 0

    def __iter__(self) -> Iterator[Draw]:  # type: ignore[override]  # the base class yields plain integers
        """`len(self)` draws of this rank from number `start` on."""
        order_of: tuple[int, list[int]] = (-1, [])
        for number in range(self.start, self.start + self.num_samples):
            epoch, place = divmod(number * self.num_replicas + self.rank, self.objects * self.repeats)
            if order_of[0] != epoch:
                order_of = (epoch, self._order(epoch))
            repeat, item = divmod(order_of[1][place], self.objects)
            yield Draw(item, epoch, repeat)

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(hashed_integer("order", self.seed, epoch))
        return torch.randperm(self.objects * self.repeats, generator=generator).tolist()


class ResumableLoader(DataLoader[Sample]):
    """A loader over a `DrawSampler` whose place in the stream goes into the checkpoint (Lightning asks for it).

    Each iteration continues where the last one was left, whether it was finished or not.
    """

    _batches = 0

    def __iter__(self) -> Iterator[MultiviewBatch]:  # type: ignore[override]  # collated
        """One epoch of batches."""
        if isinstance(self.sampler, DrawSampler):  # Lightning's `overfit_batches` puts a sequential one in its place
            self.sampler.start = self._batches * self._batch_draws // self.sampler.num_replicas
        # Counted here, not in the sampler, which runs ahead of the loop by what the workers prefetch.
        for batch in super().__iter__():
            self._batches += 1
            yield batch

    @property
    def _batch_draws(self) -> int:
        """Draws that one step takes from the stream, on all ranks together."""
        assert self.batch_size is not None
        return self.batch_size * (self.sampler.num_replicas if isinstance(self.sampler, DrawSampler) else 1)

    def state_dict(self) -> dict[str, Any]:
        """How many draws of the stream were handed out."""
        return {"draws": self._batches * self._batch_draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue behind the draws that were handed out."""
        self._batches = int(state["draws"]) // self._batch_draws
