"""`ObjaverseDataModule`: from a tree of meshes or of posed renders to multi-view batches."""

import hashlib
import logging
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.datamodules.augmentation import ObjectAugmentation
from ouroboros3d.datamodules.datasets import (
    PUBLISHED_ORBIT,
    PUBLISHED_VIEWS,
    Background,
    DrawSampler,
    MultiviewDataset,
    ObjectViews,
    ResumableLoader,
    Sample,
    SampleLoader,
    ViewSelection,
    collate,
)
from ouroboros3d.datamodules.objaverse_download import download_root, fetch_lists, fetch_objects
from ouroboros3d.datamodules.orbits import OrbitRig
from ouroboros3d.datamodules.quarantine import Quarantine, say_left_out
from ouroboros3d.datamodules.readers.detection import ReaderName, open_tree
from ouroboros3d.datamodules.readers.meshes import Asset, MeshFile, MeshReader
from ouroboros3d.datamodules.readers.ouroboros3d import Ouroboros3DReader
from ouroboros3d.datamodules.readers.posed import PosedReader
from ouroboros3d.datamodules.readers.stored import SampleError
from ouroboros3d.datamodules.readers.tree import read_uids
from ouroboros3d.datamodules.render_cache import RenderCache
from ouroboros3d.datamodules.render_folder import rendered_here
from ouroboros3d.datamodules.splits import SPLITS, Split, split_of
from ouroboros3d.datamodules.true_geometry import SAMPLING_SEED
from ouroboros3d.datamodules.verdicts import check_command, read_verdict, refusal
from ouroboros3d.files import default_cache_dir, uncollected

log = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent / "bundled"


class ObjaverseDataModule(LightningDataModule):
    """Multi-view batches of real objects: meshes, rendered once into a cache, or posed renders, read as they are.

    Objects are split by a hash of their uid, so the same object is held out from every tree. Training draws an orbit,
    the input view on it, and the novel views anew each time an object is seen; validation and test views are fixed.

    Args:
        root: a tree of meshes or of posed renders in a known format; null for the objects that come with the package.
        download: fetch the chosen objects of Objaverse 1.0, and use their tree in place of `root`.
        reader: the format of the tree; null to find out.
        views_per_object: views that each object of a tree of renders has at least; null for what its format promises.
        assume_rig: take renders without cameras for those of objaverse-rendering's defaults.
        cache_dir: where rendered views and lists of unreadable renders are kept; null for $OUROBOROS3D_CACHE or the
            user's cache folder.
        categories: use only objects of these LVIS categories.
        uids: use only these objects: a list, or a file with one uid a line or a JSON array.
        skip_uids: leave these objects out, known to be broken: given as `uids`.
        max_objects: use at most this many objects of each split.
        image_size: height and width in pixels.
        num_views: generated views per object, evenly spread around it, the input first; divides `orbit_views`.
        num_target_views: novel views per object that supervise and test the 3D.
        input_radius: scale each object so that its input view is this far from its centre, LGM's is 1.5; null for none.
        view_selection: `published` takes of an orbit of 16 views the 8 that the published loader takes.
        batch_size: objects per batch.
        num_workers: loading processes. 0 is fastest while the views fit into memory.
        samples_per_object: how often an epoch shows each training object, from other views each time.
        augmentation: mirrored objects and other colours in training.
        background: what the views are composited on; `random` draws a colour per training sample, white elsewhere.
        orbits: orbits rendered per object, each at an elevation of its own. This and what follows down to `light` is
            for meshes; posed renders come with their own cameras.
        orbit_views: views rendered per orbit.
        elevation_deg: lowest and highest elevation of the orbits in degrees.
        radius: distance of the cameras from the object's centre, scene units.
        fov_deg: the whole field of view in degrees.
        supersampling: rays per pixel along each axis in rendering.
        light: 0 = unlit base colour, 1 = light from the camera only.
        val_fraction: share of the uids that validate.
        test_fraction: share of the uids that test.
        test_split: which objects `test` and `predict` use; `train` measures how well the training objects are known.
        surface_points: points of the true surface that `test` compares with; 0 leaves geometry out, and so does a tree
            of renders that does not carry them.
        render_workers: processes that fill the cache.
        render_timeout_s: an object that takes longer is left out.
        retry_failed: try objects again that could not be rendered or read before.
        ignore_check: train on a tree of renders although check-data found errors in it.
        memory_limit_mb: MiB of decoded views kept in memory; what is beyond is read from disk when needed.
        seed: of the order of objects and of the drawn views.

    Raises:
        ValueError: an argument out of range, a tree of no known format, or nothing left after filtering.
    """

    def __init__(
        self,
        root: Path | None = None,
        download: bool = False,
        reader: ReaderName | None = None,
        views_per_object: int | None = None,
        assume_rig: bool = False,
        cache_dir: Path | None = None,
        categories: list[str] | None = None,
        uids: list[str] | Path | None = None,
        skip_uids: list[str] | Path | None = None,
        max_objects: int | None = None,
        image_size: int = 64,
        num_views: int = 4,
        num_target_views: int = 2,
        input_radius: float | None = None,
        view_selection: ViewSelection = "uniform",
        batch_size: int = 8,
        num_workers: int = 0,
        samples_per_object: int = 8,
        augmentation: ObjectAugmentation = ObjectAugmentation(),  # noqa: B008 - frozen
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
        ignore_check: bool = False,
        memory_limit_mb: int = 1024,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.rig = OrbitRig(
            image_size, orbits, orbit_views, (elevation_deg[0], elevation_deg[1]), radius, fov_deg, supersampling, light
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
            "views_per_object": 1 if views_per_object is None else views_per_object,
            "num_views": num_views,
        }.items():
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}.")
        for name, value in {"surface_points": surface_points, "num_target_views": num_target_views}.items():
            if value < 0:
                raise ValueError(f"{name}: expected 0 or more, got {value}.")
        if not (input_radius is None or input_radius > 0):
            raise ValueError(f"input_radius: expected a positive distance in scene units, got {input_radius:g}.")
        if not render_timeout_s > 0:
            raise ValueError(f"render_timeout_s: expected a positive number of seconds, got {render_timeout_s:g}.")
        if download and root is not None:
            raise ValueError(f"download: expected no root, since the package has a folder of its own, got {root}.")
        if download and categories is None and uids is None and max_objects is None:
            raise ValueError(
                "download: expected categories, uids or max_objects, got none of them: all of Objaverse is 800,000 "
                "objects and 9 TB."
            )
        self.root = download_root() if download else BUNDLED if root is None else Path(root)
        self.download = download
        self.reader: ReaderName | None = reader
        self.views_per_object = views_per_object
        self.assume_rig = assume_rig
        self.cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir)
        self.categories = categories
        self.uids = uids
        self.skip_uids = skip_uids
        self.max_objects = max_objects
        self.num_views = num_views
        self.num_target_views = num_target_views
        self.input_radius = input_radius
        self.view_selection: ViewSelection = view_selection
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.samples_per_object = samples_per_object
        self.augmentation = augmentation
        self.background: Background = background
        self.fractions = (val_fraction, test_fraction)
        self.test_split: Split = test_split
        self.surface_points = surface_points
        self.render_workers = render_workers
        self.render_timeout_s = render_timeout_s
        self.retry_failed = retry_failed
        self.ignore_check = ignore_check
        self.memory_limit_mb = memory_limit_mb
        self.seed = seed
        self.skipped: frozenset[str] = frozenset()
        self._asked_for: list[str] = []
        self._unrendered: dict[str, str] = {}
        self._quarantine: Quarantine | None = None
        self._left_out: dict[str, str] = {}  # as of the beginning of the run
        self._data_sha256 = ""
        self._geometry = 0
        self._views: ObjectViews | None = None
        self._datasets: dict[Split, MultiviewDataset] = {}
        if not download:  # a wrong tree is known before a model is made
            _ = self.tree

    @cached_property
    def tree(self) -> MeshReader | PosedReader:
        """The reader of `root`; with `download`, after `prepare_data`.

        Raises:
            ValueError: a tree of no known format, or views that no sample can be made of.
        """
        tree = open_tree(self.root, self.reader, self.views_per_object, self.assume_rig)
        self._check_views(tree)
        return tree

    def _check_views(self, tree: MeshReader | PosedReader) -> None:
        """Whether the views of a sample can be had; what posed renders hold is known only when they are read."""
        frames, views, targets = self.rig.views, self.num_views, self.num_target_views
        published = self.view_selection == "published"
        if published and views != len(PUBLISHED_VIEWS):
            raise ValueError(f"view_selection: published takes {len(PUBLISHED_VIEWS)} views, got num_views {views}.")
        if isinstance(tree, PosedReader):
            return
        if published and frames != PUBLISHED_ORBIT:
            raise ValueError(
                f"view_selection: published takes its views of orbits of {PUBLISHED_ORBIT}, got orbit_views {frames}."
            )
        divisors = [count for count in range(1, frames + 1) if frames % count == 0]
        if views not in divisors:
            raise ValueError(
                f"num_views: expected a divisor of the orbit's {frames} views, got {views}; try one of {divisors}, or "
                "another orbit_views."
            )
        spare = self.rig.orbits * frames - views
        if targets > spare:
            raise ValueError(
                f"num_target_views: expected 0 to {spare} ({self.rig.orbits} orbits of {frames} views less {views}), "
                f"got {targets}; raise orbits or orbit_views."
            )

    def objects(self) -> dict[Split, list[str]]:
        """The uids of the selected objects of each split, sorted, whether they can be rendered or not.

        Raises:
            ValueError: an unknown category or uid, a broken list, or nothing left.
        """
        chosen = self.tree.select_uids(self.categories, read_uids("uids", self.uids))
        listed = self.tree.listed_splits()
        of_split: dict[Split, list[str]] = {split: [] for split in SPLITS}
        skipped = self._named_to_skip
        for uid in chosen:
            if uid not in skipped:
                of_split[listed.get(uid) or split_of(uid, *self.fractions)].append(uid)
        return {split: uids[: self.max_objects] for split, uids in of_split.items()}

    @cached_property
    def _named_to_skip(self) -> frozenset[str]:
        named = frozenset(read_uids("skip_uids", self.skip_uids) or ())
        if unknown := sorted(named.difference(self.tree.uids)):
            log.warning(
                "skip_uids: %d of %d names are no objects of %s: %s%s",
                len(unknown),
                len(named),
                self.tree.root,
                ", ".join(map(repr, unknown[:3])),
                " ..." if len(unknown) > 3 else "",
            )
        return named

    def assets(self) -> dict[Split, list[Asset]]:
        """The selected meshes of each split, sorted by uid; none of a tree of posed renders.

        Raises:
            ValueError: as `objects`.
        """
        if not isinstance(self.tree, MeshReader):
            return {split: [] for split in SPLITS}
        return {split: self.tree.assets(uids) for split, uids in self.objects().items()}

    def prepare_data(self) -> None:
        """Download and render the meshes that are not there yet, with progress bars; posed renders need neither."""
        if self.download:
            fetch_lists()
            fetch_objects([asset for members in self.assets().values() for asset in members])
        if isinstance(self.tree, PosedReader):
            if self.retry_failed:
                Quarantine.of(self.tree, self.cache_dir).retry(self.tree)
            return
        files = {split: self.tree.files(uids) for split, uids in self.objects().items()}
        self._render([file for members in files.values() for file in members])
        if surface_points := self._surface_points(self.test_split):
            rendered = RenderCache(self.cache_dir, self.rig).complete(files[self.test_split])
            self._render(rendered, surface_points)

    def _render(self, files: list[MeshFile], surface_points: int = 0) -> None:
        """Render those that are not in the cache yet; only of these all that the tree knows is read."""
        assert isinstance(self.tree, MeshReader)
        cache = RenderCache(self.cache_dir, self.rig)
        missing = cache.missing(files, retry_failed=self.retry_failed, surface_points=surface_points)
        cache.render(
            self.tree.assets([file.uid for file in missing]),
            workers=self.render_workers,
            timeout_s=self.render_timeout_s,
            retry_failed=self.retry_failed,
            surface_points=surface_points,
        )

    def _surface_points(self, split: Split) -> int:
        """Points of true surface that a split's objects need: only `test` measures geometry and waits for it."""
        testing = self.trainer is not None and self.trainer.state.fn == "test"
        return self.surface_points if testing and split == self.test_split else 0

    @uncollected()
    def setup(self, stage: str) -> None:
        """Open the views for `fit`, `validate`, `test` or `predict`.

        Raises:
            ValueError: the stage needs a split that has no usable object, or `prepare_data` has not run.
        """
        needed: Split = {"fit": "train", "validate": "val"}.get(stage, self.test_split)  # type: ignore[assignment]
        if isinstance(self.tree, PosedReader):
            reader, asked_for = self.tree, self.objects()
            self._views = self._views or ObjectViews(reader, self.rig.image_size, self.memory_limit_mb)
            self._quarantine = Quarantine.of(reader, self.cache_dir)
            usable = self._readable(asked_for, stage)
            listed = self._quarantine.path
            self._geometry = self._stored_points(reader, usable[self.test_split])
            if stage == "fit" and not self.ignore_check:
                self._refuse_failed_check(reader, {uid for uids in usable.values() for uid in uids})
        else:
            asked_for = self.objects()
            cache = RenderCache(self.cache_dir, self.rig)
            self._views = self._views or ObjectViews(
                Ouroboros3DReader(cache.folder), self.rig.image_size, self.memory_limit_mb
            )
            files = {split: self.tree.files(uids) for split, uids in asked_for.items()}
            # Of all splits at once, so that the cache is listed once.
            rendered = {file.uid for file in cache.complete([file for members in files.values() for file in members])}
            usable = {split: self._usable(cache, split, members, rendered) for split, members in files.items()}
            listed = cache.folder / "failures.jsonl"
            if stage != "fit":  # the protocol of a test needs it
                self._data_sha256 = cache.assets_sha256(asked_for[needed])
            self._geometry = self._surface_points(self.test_split)
        # Of all that were asked for, so that an object that fails here and not there is a missing value, no more.
        self._asked_for = asked_for[needed]
        if not usable[needed]:
            found = ", ".join(f"{len(usable[split])} {split}" for split in SPLITS)
            left_out = sum(len(asked_for[split]) - len(usable[split]) for split in SPLITS)
            broken = f" and {left_out} broken ones ({listed})" if left_out else ""
            raise ValueError(
                f"{stage}: expected at least one {needed} object in {self.root}, got {found} after filtering{broken}; "
                "select more objects, other fractions" + ("." if stage == "fit" else ", or another test_split.")
            )
        self._datasets = {
            split: MultiviewDataset(
                self._views,
                uids,
                self.num_views,
                self.num_target_views,
                self.background,
                self.seed,
                self._geometry if split == self.test_split else 0,
                self.view_selection,
                self._quarantine,
                self.augmentation,
            )
            for split, uids in usable.items()
        }

    def _readable(self, asked_for: dict[Split, list[str]], stage: str) -> dict[Split, list[str]]:
        """The objects of a tree of renders that are not listed as unreadable, on all processes the same."""
        assert self._views is not None
        assert self._quarantine is not None
        listed = self._quarantine.read()
        if stage in ("test", "predict"):  # the test's protocol names all cameras: what has none is known before
            for uid in asked_for[self.test_split]:
                if uid not in listed:
                    try:
                        self._views.object(uid)
                    except SampleError as error:
                        self._quarantine.add(uid, str(error))
                        listed[uid] = str(error)
        self._left_out = listed if self.trainer is None else self.trainer.strategy.broadcast(listed)
        for split, uids in asked_for.items():
            failures = [self._left_out[uid] for uid in uids if uid in self._left_out]
            say_left_out(split, len(uids), failures, "read", self._quarantine.path)
        return {split: [uid for uid in uids if uid not in self._left_out] for split, uids in asked_for.items()}

    def _refuse_failed_check(self, tree: PosedReader, used: set[str]) -> None:
        """What check-data found counts here: wrong cameras would cost a training, and show in its numbers only."""
        verdict = read_verdict(tree, self.cache_dir)
        if verdict is None:
            if not rendered_here(tree.root):
                log.warning("%s: cameras were never checked; run %s", tree.root, check_command(tree, self.cache_dir))
        elif reason := refusal(verdict, tree, self.cache_dir, used):
            raise ValueError(reason)

    def _stored_points(self, tree: PosedReader, uids: list[str]) -> int:
        """Points of the true surface that a tree of renders carries for all of the objects, else 0."""
        points = self._surface_points(self.test_split)
        if not points or not uids:
            return points
        stored = all(tree.has_true_geometry(uid, points) for uid in uids)
        if stored and tree.read(uids[0]).size == (self.rig.image_size, self.rig.image_size):
            return points
        log.info("%s carries no true surfaces at this size: geometry is not measured, images are.", self.root)
        return 0

    def _usable(self, cache: RenderCache, split: Split, files: list[MeshFile], rendered: set[str]) -> list[str]:
        surface_points = self._surface_points(split)
        if surface_points:
            rendered = {uid for uid in rendered if cache.holds(uid, surface_points)}
        complete = [file.uid for file in files if file.uid in rendered]
        left_out = [file for file in files if file.uid not in rendered] if len(complete) < len(files) else []
        failures = cache.failures(left_out, surface_points)
        unknown = [file.uid for file in left_out if file.uid not in failures]
        if unknown:
            raise ValueError(
                f"{cache.folder}: expected rendered views of {len(files)} {split} objects, {len(unknown)} are missing "
                f"({', '.join(unknown[:3])}, ...); call prepare_data() first."
            )
        if split == self.test_split:
            self._unrendered = {uid: f"{entry.stage}: {entry.error}" for uid, entry in failures.items()}
        reasons = [f"{uid}: {entry.stage}, {entry.error}" for uid, entry in failures.items()]
        say_left_out(split, len(files), reasons, "rendered", cache.folder / "failures.jsonl")
        return complete

    @property
    def failed(self) -> dict[str, str]:
        """Of the objects that `test` or `predict` was asked for, those that cannot be rendered or read, and why."""
        known = self._unrendered if self._quarantine is None else self._quarantine.read()
        return {uid: known[uid] for uid in self._asked_for if uid in known}

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
            collate_fn=partial(collate, num_views=self.num_views, input_radius=self.input_radius),
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
        posed = isinstance(self.tree, PosedReader)
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
            "view_selection": self.view_selection,
            "resize_filter": "none",  # views are rendered at this size
            "num_points": self._geometry,
            "sampling_seed": SAMPLING_SEED,
            **(self._posed_protocol() if posed else {}),
            **({} if self.input_radius is None else {"input_radius": self.input_radius}),
        }

    def _posed_protocol(self) -> dict[str, Any]:
        """What a tree of renders says itself: its cameras over all tested objects, and a hash of them and the files."""
        assert self._views is not None
        digest = hashlib.sha256(f"{self.tree.name}\n".encode())
        found = []
        for uid in self._asked_for:
            if uid in self._left_out:
                digest.update(f"{uid} cannot be read".encode())
            else:
                found.append(self._views.object(uid))
        for item in found:
            digest.update(item.uid.encode())
            digest.update(item.cameras.c2w_opencv.numpy().tobytes() + item.cameras.intrinsics_norm.numpy().tobytes())
            digest.update(",".join(str(image.size) for image in item.images).encode())
        centres = torch.cat([item.cameras.centres for item in found])
        focal = torch.cat([item.cameras.intrinsics_norm[:, 0, 0] for item in found])
        radius = centres.norm(dim=-1)
        return {
            "data_sha256": digest.hexdigest(),
            "fov_deg": _range(torch.rad2deg(2 * torch.atan(0.5 / focal))),
            "radius": _range(radius),
            "elevation_deg": _range(torch.rad2deg(torch.asin(centres[:, 1] / radius))),
            "resize_filter": "hamming",
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

    def _fixed(self, split: Split, skipped: frozenset[str] = frozenset()) -> SampleLoader:
        dataset = self._datasets[split]
        kept = [index for index, uid in enumerate(dataset.uids) if uid not in skipped]
        return SampleLoader(
            Subset(dataset, kept),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=partial(collate, num_views=self.num_views, input_radius=self.input_radius),
        )


def _range(values: Tensor) -> list[float]:
    """Lowest and highest of values, to three decimals."""
    return [round(values.min().item(), 3), round(values.max().item(), 3)]
