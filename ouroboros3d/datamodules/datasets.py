"""From posed views to batches: which views of an object make a sample, in which order, on which background.

Every random choice is a function of (seed, epoch, repeat, uid), never of a stream that workers, resumption or another
split could shift: the same step sees the same sample with any number of workers, and an interrupted epoch continues
where it stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.augmentation import ObjectAugmentation
from ouroboros3d.datamodules.orbits.true_geometry import TrueGeometry
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.splits import hashed_integer, hashed_uniform
from ouroboros3d.datamodules.views import Background, ObjectViews, solid_colour, spread
from ouroboros3d.surface import Surface

ViewSelection = Literal["uniform", "published"]
# Of an orbit of 16, rolled so that it begins with the input (Costwen/Ouroboros3D): the last step is a short one.
PUBLISHED_ORBIT, PUBLISHED_VIEWS = 16, (0, 2, 4, 6, 8, 10, 12, 15)
GO_ON = "the same command, or fit --resume RUN, goes on without it, and check-data finds all such objects at once."


class SampleKey(NamedTuple):
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
        geometry: true geometry in the object's frame, or None.
        coordinates: [V, H, W, 3] true surface points that the generated views show, in the object's frame, or None.
    """

    uid: str
    rgba: Tensor
    cameras: Cameras
    background: Tensor
    geometry: TrueGeometry | None = None
    coordinates: Tensor | None = None


class MultiviewDataset(Dataset[Sample]):
    """Samples of V views around an object and T novel views.

    Indexed by `SampleKey` (training: random ring, input view, novel views, background) or by an integer (the one fixed
    sample of that object, whatever the seed).

    No object takes another's place. One that cannot be read is listed by its source: a fixed sample of it is left out,
    a draw of it ends the training, which goes on without it when it is resumed.

    Args:
        views: the decoded views.
        uids: the objects.
        num_views: V.
        num_target_views: T.
        background: what the views are composited on; `random` is white in fixed samples.
        seed: of the random samples.
        surface_points: points of the true surface in fixed samples; 0 = no true geometry.
        true_coordinates: whether fixed samples without it have true coordinates all the same, by their views' depth.
        view_selection: `uniform` takes views that are evenly spread from the input on; `published` takes those of the
            published loader.
        augmentation: of random samples; fixed ones show the objects as they are.
    """

    def __init__(
        self,
        views: ObjectViews,
        uids: Sequence[str],
        num_views: int,
        num_target_views: int,
        background: Background,
        seed: int,
        surface_points: int = 0,
        true_coordinates: bool = False,
        view_selection: ViewSelection = "uniform",
        augmentation: ObjectAugmentation = ObjectAugmentation(),  # noqa: B008 - frozen
    ) -> None:
        self.views = views
        self.uids = list(uids)
        self.num_views = num_views
        self.num_target_views = num_target_views
        self.background = background
        self.seed = seed
        self.surface_points = surface_points
        self.true_coordinates = true_coordinates
        self.view_selection = view_selection
        self.augmentation = augmentation

    def __len__(self) -> int:
        """How many objects."""
        return len(self.uids)

    def __getitem__(self, key: SampleKey | int) -> Sample | ValueError | OSError | None:  # type: ignore[override]  # for `collate`
        """One sample; None for a fixed one that cannot be read and was listed for it.

        Returns:
            the sample, or in a worker process the error: raised there, it would arrive as the text of a traceback.

        Raises:
            SampleError: a view is missing or unreadable, and it is drawn, or the source lists nothing.
            ValueError: the object has too few views.
            OSError: the machine, not the object, is to blame.
        """
        try:
            return self._read(key)
        except (ValueError, OSError) as error:
            if get_worker_info() is None:
                raise
            return error

    def _read(self, key: SampleKey | int) -> Sample | None:
        uid = self.uids[key.item if isinstance(key, SampleKey) else key]
        try:
            return self._random(uid, key) if isinstance(key, SampleKey) else self._fixed(uid)
        except SampleError as error:
            listed = self.views.source.list_unreadable(uid, error)
            if isinstance(key, SampleKey):
                raise SampleError(f"{error} It is listed in {listed}: {GO_ON}") from error
            return None

    def _random(self, uid: str, draw: SampleKey) -> Sample:
        rings, cameras = self._rings(uid), self.views.cameras(uid)
        # A stream of this sample's own; the order of the draws below is part of what a seed means.
        generator = torch.Generator().manual_seed(hashed_integer("sample", self.seed, draw.epoch, draw.repeat, uid))
        ring = rings[int(torch.randint(len(rings), (), generator=generator))]
        start = int(torch.randint(len(ring), (), generator=generator))
        generated = self._generated(cameras, ring, start)
        others = [view for view in range(len(cameras.c2w_opencv)) if view not in generated]
        order = torch.randperm(len(others), generator=generator)[: self.num_target_views]
        chosen = generated + [others[int(place)] for place in order]
        drawn = self.background == "random"
        background = torch.rand(3, generator=generator) if drawn else solid_colour(self.background)
        rgba, cameras = self.augmentation.apply(
            self.views.rgba(uid, chosen), cameras[chosen], self.num_views, generator
        )
        return Sample(uid, rgba, cameras, background)

    def _fixed(self, uid: str) -> Sample:
        rings, cameras = self._rings(uid), self.views.cameras(uid)
        generated = self._generated(cameras, rings[0], 0)
        others = [view for view in range(len(cameras.c2w_opencv)) if view not in generated]
        # By a hash of each view's number: more views, or other generated ones, leave the order of the rest as it is.
        targets = sorted(others, key=lambda view: hashed_uniform("target", uid, view))[: self.num_target_views]
        geometry = coordinates = None
        if self.surface_points:
            geometry = self.views.source.true_geometry(uid, self.surface_points)
            coordinates = geometry.coordinates[generated]
        elif self.true_coordinates:
            coordinates = self.views.coordinates(uid, generated)
        chosen = generated + targets
        rgba, background = self.views.rgba(uid, chosen), solid_colour(self.background)
        return Sample(uid, rgba, cameras[chosen], background, geometry, coordinates)

    def _rings(self, uid: str) -> Sequence[Sequence[int]]:
        """The rings that hold enough views; all views of an object without such a ring."""
        found = self.views.object(uid)
        if len(found) < self.num_views + self.num_target_views:
            raise ValueError(
                f"{uid}: expected {self.num_views} generated and {self.num_target_views} novel views, got "
                f"{len(found)} in all; lower num_views or num_target_views, or leave the object out (skip_uids)."
            )
        if self.view_selection == "published":
            rings = [ring for ring in found.rings if len(ring) == PUBLISHED_ORBIT]
            if not rings:
                raise ValueError(
                    f"{uid}: view_selection=published expects orbits of {PUBLISHED_ORBIT} views, got "
                    f"{[len(ring) for ring in found.rings] or 'no orbit'}; choose uniform."
                )
            return rings
        return [ring for ring in found.rings if len(ring) >= self.num_views] or [range(len(found))]

    def _generated(self, cameras: Cameras, ring: Sequence[int], start: int) -> list[int]:
        if self.view_selection == "published":
            return [ring[(start + place) % PUBLISHED_ORBIT] for place in PUBLISHED_VIEWS]
        centres = cameras.centres.double()
        # Of the cameras as they stand, not as they are numbered: rings of others begin and turn as they like.
        azimuth_deg = torch.rad2deg(torch.atan2(centres[:, 0], centres[:, 2]))
        return spread(azimuth_deg, ring, start, self.num_views)


def collate(
    found: Sequence[Sample | ValueError | OSError | None], num_views: int, input_radius: float | None = None
) -> MultiviewBatch | ValueError | OSError | None:
    """Composite the samples and bring each into its input-relative frame.

    Args:
        found: B samples of V + T views, and what else a `MultiviewDataset` returns.
        num_views: V.
        input_radius: distance of the input view that every object is scaled to, one factor for all its translations and
            its true geometry (`object_from_batch` undoes it); None leaves each at its own.

    Returns:
        the batch of the B samples, None if there are none, the first error if there is one.
    """
    samples: list[Sample] = []
    for item in found:
        if isinstance(item, (ValueError, OSError)):
            return item
        samples += [] if item is None else [item]
    if not samples:
        return None
    background = torch.stack([sample.background for sample in samples])
    rgba = torch.stack([sample.rgba for sample in samples]).permute(0, 1, 4, 2, 3).float() / 255  # [B, V + T, 4, H, W]
    alpha = rgba[:, :, 3:]
    images = rgba[:, :, :3] * alpha + background[:, None, :, None, None] * (1 - alpha)
    cameras = Cameras(
        torch.stack([sample.cameras.c2w_opencv for sample in samples]),
        torch.stack([sample.cameras.intrinsics_norm for sample in samples]),
    )
    if input_radius is None:
        cameras, object_from_batch = cameras.relative_to_first()
    else:
        # One factor an object, from its input view, also where its views differ in distance: under a factor for each
        # view they would no longer show one object (docs/formats.md, section 1.3).
        scale = input_radius / cameras.centres[:, 0].norm(dim=-1)  # [B]
        scaled = torch.diag_embed(torch.stack([scale, scale, scale, torch.ones_like(scale)], dim=-1))
        cameras, object_from_batch = cameras.transform(scaled[:, None]).relative_to_first()
        object_from_batch = torch.linalg.inv(scaled) @ object_from_batch
    geometries = [sample.geometry for sample in samples if sample.geometry is not None]
    maps = [sample.coordinates for sample in samples if sample.coordinates is not None]
    whole = len(geometries) == len(samples)
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
        surface=Surface.cat([geometry.surface for geometry in geometries]) if whole else None,
        occupancy=torch.stack([geometry.occupancy for geometry in geometries]) if whole else None,
        coordinates=_relative(torch.stack(maps), object_from_batch) if len(maps) == len(samples) else None,
    ).validate()


def _relative(maps: Tensor, object_from_batch: Tensor) -> Tensor:
    """Coordinate maps [B, V, H, W, 3] of the objects' frames as [B, V, 3, H, W] of the input-relative frame."""
    batch_from_object = torch.linalg.inv(object_from_batch.double()).float()
    # Points are rows, so the matrix that turns them is transposed. Pixels without a surface move too; alpha tells them.
    turn, shift = batch_from_object[:, None, None, :3, :3], batch_from_object[:, None, None, None, :3, 3]
    moved: Tensor = maps @ turn.transpose(-1, -2) + shift
    return moved.permute(0, 1, 4, 2, 3).contiguous()
