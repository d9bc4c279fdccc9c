"""`ObjaverseDataModule`: from trees of meshes and of posed renders to multi-view batches."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Subset

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.datamodules.augmentation import ObjectAugmentation
from ouroboros3d.datamodules.datasets import PUBLISHED_VIEWS, MultiviewDataset, Sample, ViewSelection, collate
from ouroboros3d.datamodules.left_out import LeftOut, say_left_out
from ouroboros3d.datamodules.loader_workers import heed_the_parent
from ouroboros3d.datamodules.loaders import DrawSampler, ResumableLoader, SampleLoader
from ouroboros3d.datamodules.objaverse_download import download_root, fetch_lists, fetch_objects
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.orbits.true_geometry import SAMPLING_SEED
from ouroboros3d.datamodules.posed_renders import PosedRenders
from ouroboros3d.datamodules.readers.detection import open_tree
from ouroboros3d.datamodules.readers.meshes import Asset, MeshReader
from ouroboros3d.datamodules.readers.names import ReaderName
from ouroboros3d.datamodules.readers.posed import PosedReader
from ouroboros3d.datamodules.rendered_meshes import RenderedMeshes
from ouroboros3d.datamodules.selection import BUNDLED, Selection, trees_of
from ouroboros3d.datamodules.several_trees import SeveralTrees
from ouroboros3d.datamodules.sources import Source
from ouroboros3d.datamodules.splits import SPLITS, Split
from ouroboros3d.datamodules.views import Background, ObjectViews
from ouroboros3d.files import default_cache_dir, gc_paused


class ObjaverseDataModule(LightningDataModule):
    """Multi-view batches of real objects: meshes, rendered once into a cache, or posed renders, read as they are.

    Objects are split by a hash of their uid, so the same object is held out from every tree. Training draws an orbit,
    the input view on it, and the novel views anew each time an object is seen; validation and test views are fixed.

    Args:
        root: a tree of meshes or of posed renders in a known format, or a list of such trees, in which `bundled` names
            the objects that come with the package; null for these alone.
        download: fetch the chosen objects of Objaverse 1.0, and use their tree in place of `root`.
        reader: the format of the tree, or of all trees; null to find out.
        views_per_object: views that each object of a tree of renders has at least; null for what its format promises.
        assume_rig: take renders without cameras for those of objaverse-rendering's defaults.
        cache_dir: where rendered views and lists of unreadable renders are kept; null for $OUROBOROS3D_CACHE or the
            user's cache folder.
        categories: use only objects of these LVIS categories.
        uids: use only these objects: a list, or a file with one uid a line or a JSON array.
        skip_uids: leave these objects out, known to be broken: given as `uids`.
        test_uids: test only these of the test objects: given as `uids`. Training and validation are as without.
        max_objects: use at most this many objects of each split, of all trees together.
        rig: where the cameras of rendered meshes stand, and the size and light of their views. Posed renders come with
            their own cameras and light: of them it says the size that their views are brought to.
        num_views: generated views per object, evenly spread around it, the input first; divides the rig's `views`.
        num_target_views: novel views per object that supervise and test the 3D.
        input_radius: scale each object so that its input view is this far from its centre, LGM's is 1.5; null for none.
        view_selection: `published` takes of an orbit of 16 views the 8 that the published loader takes.
        batch_size: objects per batch.
        num_workers: loading processes. 0 is fastest while the views fit into memory.
        samples_per_object: how often an epoch shows each training object, from other views each time.
        augmentation: mirrored objects and other colours in training.
        background: what the views are composited on; `random` draws a colour per training sample, white elsewhere.
        val_fraction: share of the uids that validate.
        test_fraction: share of the uids that test.
        test_split: which objects `test` and `predict` use; `train` measures how well the training objects are known.
        surface_points: points of the true surface that `test` compares with; 0 leaves geometry out. A tree of renders
            that does not carry them leaves out all but `coordinate_error`, which it has where its views have depth.
        render_workers: processes that fill the cache.
        render_timeout_s: an object that takes longer is left out.
        retry_failed: try objects again that could not be rendered or read before.
        ignore_check: use a tree of renders, and all of its objects that can be read, although check-data found errors.
        memory_limit_mb: MiB of decoded views kept in memory; what is beyond is read from disk when needed.
        seed: of the order of objects and of the drawn views.

    Raises:
        ValueError: an argument out of range, a tree of no known format, or nothing left after filtering.
    """

    # Arguments that say how fast the data comes and not what it is: two tests that differ in them alone are the same.
    without_effect: ClassVar[frozenset[str]] = frozenset(
        {
            *("batch_size", "num_workers", "memory_limit_mb"),
            *("cache_dir", "render_workers", "render_timeout_s", "retry_failed", "ignore_check"),
        }
    )

    def __init__(
        self,
        root: list[Path] | Path | None = None,
        download: bool = False,
        reader: ReaderName | None = None,
        views_per_object: int | None = None,
        assume_rig: bool = False,
        cache_dir: Path | None = None,
        categories: list[str] | None = None,
        uids: list[str] | Path | None = None,
        skip_uids: list[str] | Path | None = None,
        test_uids: list[str] | Path | None = None,
        max_objects: int | None = None,
        rig: OrbitRig = OrbitRig(),  # noqa: B008 - frozen
        num_views: int = 4,
        num_target_views: int = 2,
        input_radius: float | None = None,
        view_selection: ViewSelection = "uniform",
        batch_size: int = 8,
        num_workers: int = 0,
        samples_per_object: int = 8,
        augmentation: ObjectAugmentation = ObjectAugmentation(),  # noqa: B008 - frozen
        background: Background = "white",
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
        for name, value in {
            "batch_size": batch_size,
            "samples_per_object": samples_per_object,
            "render_workers": render_workers,
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
        self.roots = [download_root()] if download else trees_of(root)
        self.download = download
        self.reader: ReaderName | None = reader
        self.views_per_object = views_per_object
        self.rig = rig
        self.assume_rig = assume_rig
        self.cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir)
        self.selection = Selection(
            categories=categories,
            uids=uids,
            skip_uids=skip_uids,
            test_uids=test_uids,
            max_objects=max_objects,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
        )
        self.num_views = num_views
        self.num_target_views = num_target_views
        self.input_radius = input_radius
        self.view_selection: ViewSelection = view_selection
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.samples_per_object = samples_per_object
        self.augmentation = augmentation
        self.background: Background = background
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
        self.left_out: dict[Split, dict[str, LeftOut]] = {}  # as of the beginning of the run
        self._geometry = 0
        self._views: ObjectViews | None = None
        self._datasets: dict[Split, MultiviewDataset] = {}
        if not download:  # a wrong tree is known before a model is made
            _ = self.source

    @cached_property
    def source(self) -> Source:
        """The objects of `root`; with `download`, after the lists were fetched.

        Raises:
            ValueError: a tree of no known format, views that no sample can be made of, or objects of several trees that
                cannot be told apart.
        """
        if self.view_selection == "published" and self.num_views != len(PUBLISHED_VIEWS):
            raise ValueError(
                f"view_selection: published takes {len(PUBLISHED_VIEWS)} views, got num_views {self.num_views}."
            )
        trees = [open_tree(root, self.reader, self.views_per_object, self.assume_rig) for root in self.roots]
        return self._opened(trees[0]) if len(trees) == 1 else SeveralTrees(trees, self._opened)

    def _opened(self, tree: MeshReader | PosedReader, uids: Mapping[str, str] | None = None) -> Source:
        if isinstance(tree, PosedReader):
            return PosedRenders(tree, self.cache_dir, self.retry_failed, self.ignore_check, uids)
        rendering = (self.rig, self.render_workers, self.render_timeout_s, self.retry_failed)
        meshes = RenderedMeshes(tree, self.cache_dir, *rendering, uids)
        meshes.check_views(self.num_views, self.num_target_views, self.view_selection)
        return meshes

    def objects(self) -> dict[Split, list[str]]:
        """The names of the selected objects of each split, sorted, whether they can be rendered or not.

        Raises:
            ValueError: an unknown category or uid, a broken list, or nothing left.
        """
        return self.selection.of(self.source)

    def assets(self) -> dict[Split, list[Asset]]:
        """The selected meshes of each split, sorted by uid in each tree; none of a tree of posed renders.

        Raises:
            ValueError: as `objects`.
        """
        return {split: self.source.assets(names) for split, names in self.objects().items()}

    def prepare_data(self) -> None:
        """Download and render the meshes that are not there yet, with progress bars; posed renders need neither."""
        if self.download:
            fetch_lists()
            fetch_objects([asset for members in self.assets().values() for asset in members])
        objects = self.objects()
        everything = [name for names in objects.values() for name in names]
        self.source.prepare(everything, objects[self.test_split], self._surface_points)

    @property
    def _surface_points(self) -> int:
        """Points of true surface that the tested objects need: only `test` measures geometry and waits for it."""
        testing = self.trainer is not None and self.trainer.state.fn == "test"
        return self.surface_points if testing else 0

    @gc_paused()
    def setup(self, stage: str) -> None:
        """Open the views for `fit`, `validate`, `test` or `predict`.

        Raises:
            ValueError: the stage needs a split that has no usable object, or `prepare_data` has not run.
        """
        needed: Split = {"fit": "train", "validate": "val"}.get(stage, self.test_split)  # type: ignore[assignment]
        asked_for = self.objects()
        tested = self.test_split if stage in ("test", "predict") else None
        found = self.source.left_out(asked_for, tested, self._surface_points)
        if self.trainer is not None:
            found = self.trainer.strategy.broadcast(found)  # on all processes the same
        usable: dict[Split, list[str]] = {}
        for split, names in asked_for.items():
            self.left_out[split] = {name: found[name] for name in names if name in found}
            say_left_out(split, len(names), self.left_out[split])
            usable[split] = [name for name in names if name not in found]
        self._geometry = self._surface_points
        if self._geometry and usable[self.test_split]:
            self._geometry = self.source.true_points(usable[self.test_split], self._geometry, self.rig.image_size)
        by_depth = not self._geometry and bool(self._surface_points) and self.source.has_depth(usable[self.test_split])
        if stage == "fit":
            self.source.refuse_failed_check({name for names in usable.values() for name in names})
        # Of all that were asked for, so that an object that fails here and not there is a missing value, no more.
        self._asked_for = asked_for[needed]
        if not usable[needed]:
            counts = ", ".join(f"{len(usable[split])} {split}" for split in SPLITS)
            name, one = next(iter(found.items()), ("", None))
            broken = f" and {len(found)} that are left out ({name}: {one.reason})" if one else ""
            raise ValueError(
                f"{stage}: expected at least one {needed} object in {self.source.where}, got {counts} after "
                f"filtering{broken}; select more objects, other fractions"
                + ("." if stage == "fit" else ", or another test_split.")
            )
        self._views = self._views or ObjectViews(self.source, self.rig.image_size, self.memory_limit_mb)
        self._datasets = {
            split: MultiviewDataset(
                self._views,
                uids,
                self.num_views,
                self.num_target_views,
                self.background,
                self.seed,
                self._geometry if split == self.test_split else 0,
                by_depth and split == self.test_split,
                self.view_selection,
                self.augmentation,
            )
            for split, uids in usable.items()
        }

    @property
    def failed(self) -> dict[str, str]:
        """Of the objects that `test` or `predict` was asked for, those that are left out, and why."""
        known = self.left_out.get(self.test_split, {}) | self.source.listed(self._asked_for)
        return {uid: known[uid].reason for uid in self._asked_for if uid in known}

    def left_out_rows(self) -> list[dict[str, str]]:
        """Every object that is left out, of all splits: uid, split, who found it, the reason, and the list."""
        return [
            {"uid": name, "split": split, "found_by": one.found_by, "reason": one.reason, "list": str(one.listed)}
            for split, objects in self.left_out.items()
            for name, one in objects.items()
        ]

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
            worker_init_fn=heed_the_parent,
        )

    def val_dataloader(self) -> DataLoader[Sample] | list[DataLoader[Sample]]:
        """The fixed views of the validation objects; no loader if there are none, then validation is skipped."""
        return self._fixed("val") if len(self._datasets["val"]) else []

    def tested_uids(self) -> list[str]:
        """The objects of `test_split` that can be tested, sorted."""
        return list(self._datasets[self.test_split].uids)

    def titles(self, names: Sequence[str]) -> dict[str, str]:
        """What the makers of objects call them, by name, of those whose tree says so."""
        # In one line, and short: a name is written above pictures, and a slash would open a group in TensorBoard.
        called = {one.uid: " ".join(one.name.replace("/", " ").split())[:60] for one in self.source.assets(names)}
        return {name: title for name, title in called.items() if title}

    def test_protocol(self) -> dict[str, Any]:
        """What a test on this data is measured under, by the names of docs/formats.md, section 4.1; after `setup`."""
        trees = ["bundled" if root == BUNDLED else str(root) for root in self.roots]
        seen = self.source.protocol(self._asked_for, self.left_out[self.test_split])
        return {
            "dataset": trees[0] if len(trees) == 1 else sorted(trees),
            "data_sha256": seen["data_sha256"],
            "split": self.test_split,
            "split_sha256": hashlib.sha256("\n".join(self._asked_for).encode()).hexdigest(),
            "resolution": self.rig.image_size,
            "background": "white" if self.background == "random" else self.background,  # what fixed views are on
            "fov_deg": seen["fov_deg"],
            "radius": seen["radius"],
            "elevation_deg": seen["elevation_deg"],
            "views": self.num_views,
            "target_views": self.num_target_views,
            "view_selection": self.view_selection,
            "resize_filter": seen["resize_filter"],
            "num_points": self._geometry,
            "sampling_seed": SAMPLING_SEED,
            **({} if self.input_radius is None else {"input_radius": self.input_radius}),
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
            worker_init_fn=heed_the_parent,
        )
