"""`ObjaverseDataModule`: from a tree of meshes to multi-view batches."""

import hashlib
import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Subset

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.datamodules.datasets import (
    Background,
    CachedViews,
    DrawSampler,
    MultiviewDataset,
    ResumableLoader,
    Sample,
    collate,
)
from ouroboros3d.datamodules.orbits import OrbitRig
from ouroboros3d.datamodules.readers.objaverse import Asset, ObjaverseReader
from ouroboros3d.datamodules.render_cache import RenderCache
from ouroboros3d.datamodules.splits import SPLITS, Split, split_of
from ouroboros3d.datamodules.true_geometry import SAMPLING_SEED

log = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent / "bundled"


def default_cache_dir() -> Path:
    """`$OUROBOROS3D_CACHE`, or `ouroboros3d/` in the user's cache folder."""
    named = os.environ.get("OUROBOROS3D_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ouroboros3d"


class ObjaverseDataModule(LightningDataModule):
    """Multi-view batches of real objects, rendered once into a cache.

    Objects are split by a hash of their uid, so the same object is held out from every tree. Training draws an orbit,
    the input view on it, and the novel views anew each time an object is seen; validation and test views are fixed.

    Args:
        root: a tree in the Objaverse 1.0 cache layout; null for the objects that come with the package.
        cache_dir: where rendered views are kept; null for $OUROBOROS3D_CACHE or the user's cache folder.
        categories: use only objects of these LVIS categories.
        uids: use only these objects: a list, or a text file with one uid a line.
        max_objects: use at most this many objects of each split.
        image_size: height and width in pixels.
        num_views: generated views per object, evenly spread over an orbit, the input first; divides `orbit_views`.
        num_target_views: novel views per object that supervise and test the 3D.
        batch_size: objects per batch.
        num_workers: loading processes. 0 is fastest while the views fit into memory.
        samples_per_object: how often an epoch shows each training object, from other views each time.
        background: what the views are composited on; `random` draws a colour per training sample, white elsewhere.
        orbits: orbits rendered per object, each at an elevation of its own.
        orbit_views: views rendered per orbit.
        elevation_deg: lowest and highest elevation of the orbits in degrees.
        radius: distance of the cameras from the object's centre, scene units.
        fov_deg: the whole field of view in degrees.
        supersampling: rays per pixel along each axis in rendering.
        light: 0 = unlit base colour, 1 = light from the camera only.
        val_fraction: share of the uids that validate.
        test_fraction: share of the uids that test.
        test_split: which objects `test` and `predict` use; `train` measures how well the training objects are known.
        surface_points: points of the true surface that `test` compares with; 0 leaves geometry out.
        render_workers: processes that fill the cache.
        render_timeout_s: an object that takes longer is left out.
        retry_failed: try objects again that could not be rendered before.
        memory_limit_mb: MiB of decoded views kept in memory; what is beyond is read from disk when needed.
        seed: of the order of objects and of the drawn views.

    Raises:
        ValueError: an argument out of range, a tree of another layout, or nothing left after filtering.
    """

    def __init__(
        self,
        root: Path | None = None,
        cache_dir: Path | None = None,
        categories: list[str] | None = None,
        uids: list[str] | Path | None = None,
        max_objects: int | None = None,
        image_size: int = 64,
        num_views: int = 4,
        num_target_views: int = 2,
        batch_size: int = 8,
        num_workers: int = 0,
        samples_per_object: int = 8,
        background: Background = "white",
        orbits: int = 4,
        orbit_views: int = 8,
        elevation_deg: tuple[float, float] = (-5.0, 30.0),
        radius: float = 1.7417,
        fov_deg: float = 39.598,
        supersampling: int = 2,
        light: float = 0.0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.15,
        test_split: Split = "test",
        surface_points: int = 8192,
        render_workers: int = 2,
        render_timeout_s: float = 120.0,
        retry_failed: bool = False,
        memory_limit_mb: int = 1024,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.rig = OrbitRig(
            image_size, orbits, orbit_views, (elevation_deg[0], elevation_deg[1]), radius, fov_deg, supersampling, light
        )
        divisors = [count for count in range(1, orbit_views + 1) if orbit_views % count == 0]
        if num_views not in divisors:
            raise ValueError(
                f"num_views: expected a divisor of the orbit's {orbit_views} views, got {num_views}; "
                f"try one of {divisors}, or another orbit_views."
            )
        spare = orbits * orbit_views - num_views
        if not 0 <= num_target_views <= spare:
            raise ValueError(
                f"num_target_views: expected 0 to {spare} ({orbits} orbits of {orbit_views} views less {num_views}), "
                f"got {num_target_views}; raise orbits or orbit_views."
            )
        if not (val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):
            raise ValueError(
                f"val_fraction, test_fraction: expected shares >= 0 with a sum below 1, got {val_fraction:g} and "
                f"{test_fraction:g}."
            )
        for name, value in {
            "batch_size": batch_size,
            "samples_per_object": samples_per_object,
            "render_workers": render_workers,
            "max_objects": 1 if max_objects is None else max_objects,
        }.items():
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}.")
        if surface_points < 0:
            raise ValueError(f"surface_points: expected 0 or more, got {surface_points}.")
        if not render_timeout_s > 0:
            raise ValueError(f"render_timeout_s: expected a positive number of seconds, got {render_timeout_s:g}.")
        self.root = BUNDLED if root is None else Path(root)
        self.cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir)
        self.categories = categories
        self.uids = uids
        self.max_objects = max_objects
        self.num_views = num_views
        self.num_target_views = num_target_views
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.samples_per_object = samples_per_object
        self.background: Background = background
        self.fractions = (val_fraction, test_fraction)
        self.test_split: Split = test_split
        self.surface_points = surface_points
        self.render_workers = render_workers
        self.render_timeout_s = render_timeout_s
        self.retry_failed = retry_failed
        self.memory_limit_mb = memory_limit_mb
        self.seed = seed
        self.failed: dict[str, str] = {}  # objects of `test_split` that cannot be rendered, and why
        self.skipped: frozenset[str] = frozenset()
        self._asked_for: list[str] = []
        self._data_sha256 = ""
        self._views: CachedViews | None = None
        self._datasets: dict[Split, MultiviewDataset] = {}

    def assets(self) -> dict[Split, list[Asset]]:
        """The selected objects of each split, sorted by uid, whether they can be rendered or not.

        Raises:
            ValueError: a tree of another layout, an unknown category or uid, or nothing left.
        """
        uids = _read_uids(self.uids) if isinstance(self.uids, Path) else self.uids
        chosen = ObjaverseReader(self.root).select(self.categories, uids)
        of_split: dict[Split, list[Asset]] = {split: [] for split in SPLITS}
        for asset in chosen:
            of_split[split_of(asset.uid, *self.fractions)].append(asset)
        return {split: assets[: self.max_objects] for split, assets in of_split.items()}

    def prepare_data(self) -> None:
        """Render the objects that the cache does not hold yet, with a progress bar."""
        assets = [asset for members in self.assets().values() for asset in members]
        cache = RenderCache(self.cache_dir, self.rig)
        render = partial(cache.render, workers=self.render_workers, timeout_s=self.render_timeout_s)
        render(assets, retry_failed=self.retry_failed)
        if surface_points := self._surface_points(self.test_split):
            rendered = cache.complete(self.assets()[self.test_split])
            render(rendered, retry_failed=self.retry_failed, surface_points=surface_points)

    def _surface_points(self, split: Split) -> int:
        """Points of true surface that a split's objects need: only `test` measures geometry and waits for it."""
        testing = self.trainer is not None and self.trainer.state.fn == "test"
        return self.surface_points if testing and split == self.test_split else 0

    def setup(self, stage: str) -> None:
        """Open the cache for `fit`, `validate`, `test` or `predict`.

        Raises:
            ValueError: the stage needs a split that has no usable object, or `prepare_data` has not run.
        """
        of_split = self.assets()
        cache = RenderCache(self.cache_dir, self.rig)
        usable = {split: self._usable(cache, split, assets) for split, assets in of_split.items()}
        needed: Split = {"fit": "train", "validate": "val"}.get(stage, self.test_split)  # type: ignore[assignment]
        if not usable[needed]:
            found = ", ".join(f"{len(usable[split])} {split}" for split in SPLITS)
            broken = sum(len(of_split[split]) - len(usable[split]) for split in SPLITS)
            raise ValueError(
                f"{stage}: expected at least one {needed} object in {self.root}, got {found} after filtering and "
                f"{broken} broken ones ({cache.folder / 'failures.jsonl'}); select more objects, other fractions"
                + ("." if stage == "fit" else ", or another test_split.")
            )
        if self._views is None:
            self._views = CachedViews(cache, self.memory_limit_mb)
        wanted: tuple[Split, ...] = ("train", "val") if stage == "fit" else (needed,)
        for split in wanted:
            self._views.keep(usable[split])
        self._datasets = {
            split: MultiviewDataset(
                self._views,
                uids,
                self.num_views,
                self.num_target_views,
                self.background,
                self.seed,
                self._surface_points(split),
            )
            for split, uids in usable.items()
        }
        # Of all that were asked for, so that an object that failed here and not there is a missing value and no more.
        self._asked_for = [asset.uid for asset in of_split[needed]]
        self._data_sha256 = cache.assets_sha256(self._asked_for)

    def _usable(self, cache: RenderCache, split: Split, assets: list[Asset]) -> list[str]:
        surface_points = self._surface_points(split)
        complete = [asset.uid for asset in cache.complete(assets, surface_points)]
        left_out = [asset for asset in assets if asset.uid not in set(complete)]
        failures = cache.failures(left_out, surface_points)
        unknown = [asset.uid for asset in left_out if asset.uid not in failures]
        if unknown:
            raise ValueError(
                f"{cache.folder}: expected rendered views of {len(assets)} {split} objects, {len(unknown)} are missing "
                f"({', '.join(unknown[:3])}, ...); call prepare_data() first."
            )
        if split == self.test_split:
            self.failed = {uid: f"{entry.stage}: {entry.error}" for uid, entry in failures.items()}
        if failures:
            reasons = "; ".join(f"{uid}: {entry.stage}, {entry.error}" for uid, entry in list(failures.items())[:3])
            log.warning(
                "%d of %d %s objects could not be rendered and are left out (--data.retry_failed true tries again), "
                "listed in %s: %s%s",
                len(failures),
                len(assets),
                split,
                cache.folder / "failures.jsonl",
                reasons,
                " ..." if len(failures) > 3 else "",
            )
        return complete

    def train_dataloader(self) -> ResumableLoader:
        """Training batches; each epoch shows every object `samples_per_object` times."""
        dataset = self._datasets["train"]
        replicas, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        sampler = DrawSampler(dataset, self.samples_per_object, self.batch_size, self.seed, replicas, rank)
        return ResumableLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=partial(collate, num_views=self.num_views),
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> DataLoader[Sample] | list[DataLoader[Sample]]:
        """The fixed views of the validation objects; no loader if there are none, then validation is skipped."""
        return self._fixed("val") if len(self._datasets["val"]) else []

    def tested_uids(self) -> list[str]:
        """The objects of `test_split` that can be tested, sorted."""
        return list(self._datasets[self.test_split].uids)

    def test_protocol(self) -> dict[str, Any]:
        """What a test on this data is measured under, by the names of FORMATS 4.2; after `setup`."""
        return {
            "dataset": "bundled" if self.root == BUNDLED else str(self.root),
            "data_sha256": self._data_sha256,
            "split": self.test_split,
            "split_sha256": hashlib.sha256("\n".join(self._asked_for).encode()).hexdigest(),
            "resolution": self.rig.image_size,
            "background": "white" if self.background == "random" else self.background,  # what fixed views are on
            "fov_deg": self.rig.fov_deg,
            "radius": self.rig.radius,
            "elevation_deg": list(self.rig.elevation_deg),
            "views": self.num_views,
            "target_views": self.num_target_views,
            "view_selection": "uniform",
            "resize_filter": "none",  # views are rendered at this size
            "num_points": self.surface_points,
            "sampling_seed": SAMPLING_SEED,
        }

    def test_dataloader(self) -> DataLoader[Sample]:
        """The fixed views of the objects of `test_split`, less those `skipped` (tested before an interruption)."""
        return self._fixed(self.test_split, self.skipped)

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The same batches as `test_dataloader`."""
        return self._fixed(self.test_split)

    def transfer_batch_to_device(
        self, batch: MultiviewBatch, device: torch.device, dataloader_idx: int
    ) -> MultiviewBatch:
        """The batch on the trainer's device."""
        return batch.to(device)

    def _fixed(self, split: Split, skipped: frozenset[str] = frozenset()) -> DataLoader[Sample]:
        dataset = self._datasets[split]
        kept = [index for index, uid in enumerate(dataset.uids) if uid not in skipped]
        return DataLoader(
            Subset(dataset, kept),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=partial(collate, num_views=self.num_views),
        )


def _read_uids(path: Path) -> list[str]:
    try:
        uids = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"uids: expected a list, or a text file with one uid a line, got {path} ({error}).") from error
    if not uids:
        raise ValueError(f"uids: expected at least one uid in {path}, got an empty file.")
    return uids
