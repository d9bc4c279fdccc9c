"""From cached views to batches: which views of an object make a sample, in which order, on which background.

Every random choice is a function of (seed, epoch, repeat, uid), never of a stream that workers, resumption or another
split could shift: the same step sees the same sample with any number of workers, and an interrupted epoch continues
where it stopped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.orbits import OrbitRig, SampleError, read_orbit
from ouroboros3d.datamodules.render_cache import RenderCache
from ouroboros3d.datamodules.splits import hashed_integer, hashed_uniform

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
    """

    uid: str
    rgba: Tensor
    cameras: Cameras
    background: Tensor


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
    """

    def __init__(
        self,
        views: CachedViews,
        uids: Sequence[str],
        num_views: int,
        num_target_views: int,
        background: Background,
        seed: int,
    ) -> None:
        self.views = views
        self.uids = list(uids)
        self.num_views = num_views
        self.num_target_views = num_target_views
        self.background = background
        self.seed = seed

    def __len__(self) -> int:
        """How many objects."""
        return len(self.uids)

    def __getitem__(self, key: Draw | int) -> Sample:
        """One sample.

        Raises:
            SampleError: a view that was in the cache is gone or broken.
        """
        if isinstance(key, Draw):
            uid = self.uids[key.item]
            orbit, start, targets, background = self._drawn(uid, key)
        else:
            uid = self.uids[key]
            orbit, start, targets, background = self._fixed(uid)
        rgba, cameras = self.views[uid]
        chosen = torch.tensor(self._generated(orbit, start) + targets)
        return Sample(uid, rgba[chosen], cameras[chosen], background)

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
    ).validate()


class DrawSampler(DistributedSampler[Sample]):
    """Every object `repeats` times an epoch in random order, split over ranks, resumable inside an epoch.

    A `DistributedSampler`, so Lightning leaves it in place under any strategy and tells it the epoch.

    Args:
        dataset: the objects.
        repeats: draws of each object per epoch.
        seed: of the order.
        num_replicas: processes that train together.
        rank: this one.
    """

    def __init__(self, dataset: MultiviewDataset, repeats: int, seed: int, num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, seed=seed)
        self.repeats = repeats
        self.skip = 0
        draws = len(dataset) * repeats
        self.num_samples = -(-draws // num_replicas)
        self.total_size = self.num_samples * num_replicas

    def __iter__(self) -> Iterator[Draw]:  # type: ignore[override]  # the base class yields plain integers
        """This rank's draws of the epoch, without the first `skip` (once)."""
        objects = len(self.uids)
        generator = torch.Generator().manual_seed(hashed_integer("order", self.seed, self.epoch))
        order = torch.randperm(objects * self.repeats, generator=generator).tolist()
        # Ranks take equally many steps: the first draws fill the last round.
        mine = [order[place % len(order)] for place in range(self.rank, self.total_size, self.num_replicas)]
        skip, self.skip = self.skip, 0
        for place in mine[skip:]:
            yield Draw(item=place % objects, epoch=self.epoch, repeat=place // objects)

    @property
    def uids(self) -> list[str]:
        """The dataset's objects."""
        dataset = self.dataset
        assert isinstance(dataset, MultiviewDataset)
        return dataset.uids


class ResumableLoader(DataLoader[Sample]):
    """A loader over a `DrawSampler` whose position in the epoch goes into the checkpoint (Lightning asks for it)."""

    _served = 0

    def __iter__(self) -> Iterator[MultiviewBatch]:  # type: ignore[override]  # collated
        """Batches from the position restored by `load_state_dict`, else from the start of the epoch."""
        # Counted here, not in the sampler, which runs ahead of the loop by what the workers prefetch.
        self._served = self.sampler.skip // self._size if isinstance(self.sampler, DrawSampler) else 0
        for batch in super().__iter__():
            self._served += 1
            yield batch

    @property
    def _size(self) -> int:
        assert self.batch_size is not None
        return self.batch_size

    def state_dict(self) -> dict[str, Any]:
        """How many batches of the epoch were handed out; 0 after the last."""
        return {"served": self._served % len(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue behind the batches that were handed out."""
        if isinstance(self.sampler, DrawSampler):  # Lightning's `overfit_batches` puts a sequential one in its place
            self.sampler.skip = int(state["served"]) * self._size
