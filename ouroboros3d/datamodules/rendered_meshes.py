"""Meshes as a source of views: each object is rendered once, into the cache."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ouroboros3d.datamodules.datasets import PUBLISHED_ORBIT, ViewSelection
from ouroboros3d.datamodules.left_out import LeftOut
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.orbits.true_geometry import TrueGeometry
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.meshes import Asset, MeshLocation, MeshReader
from ouroboros3d.datamodules.readers.ouroboros3d import Ouroboros3DReader
from ouroboros3d.datamodules.readers.posed import PosedObject
from ouroboros3d.datamodules.rendering.cache import RenderCache
from ouroboros3d.datamodules.sources import OneTree
from ouroboros3d.datamodules.splits import Split


class RenderedMeshes(OneTree):
    """A tree of meshes, rendered once into the cache, where each object is found under its name.

    Args:
        tree: the meshes.
        cache_dir: where rendered views are kept.
        rig: the cameras and the pixels' settings.
        workers: processes that fill the cache.
        timeout_s: an object that takes longer is left out.
        retry_failed: try objects again that could not be rendered before.
        uids: as `OneTree`.
    """

    tree: MeshReader

    def __init__(
        self,
        tree: MeshReader,
        cache_dir: Path,
        rig: OrbitRig,
        workers: int,
        timeout_s: float,
        retry_failed: bool,
        uids: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(tree, uids)
        self._cache_dir = cache_dir
        self._rig = rig
        self._workers = workers
        self._timeout_s = timeout_s
        self._retry_failed = retry_failed

    def check_views(self, num_views: int, num_target_views: int, view_selection: ViewSelection) -> None:
        """Whether the views of a sample can be had; what posed renders hold is known only when they are read.

        Args:
            num_views: generated ones.
            num_target_views: novel ones.
            view_selection: which of an orbit are generated.

        Raises:
            ValueError: the rig has too few, or none that are evenly spread.
        """
        frames = self._rig.views
        if view_selection == "published" and frames != PUBLISHED_ORBIT:
            raise ValueError(
                f"view_selection: published takes its views of orbits of {PUBLISHED_ORBIT}, got rig.views {frames}."
            )
        divisors = [count for count in range(1, frames + 1) if frames % count == 0]
        if num_views not in divisors:
            raise ValueError(
                f"num_views: expected a divisor of the orbit's {frames} views, got {num_views}; try one of {divisors}, "
                "or another rig.views."
            )
        spare = self._rig.orbits * frames - num_views
        if num_target_views > spare:
            raise ValueError(
                f"num_target_views: expected 0 to {spare} ({self._rig.orbits} orbits of {frames} views less "
                f"{num_views}), got {num_target_views}; raise rig.orbits or rig.views."
            )

    @cached_property
    def cache(self) -> RenderCache:
        """The folder of the rendered views.

        Raises:
            ValueError: it cannot be created or written.
        """
        return RenderCache(self._cache_dir, self._rig)

    @cached_property
    def _views(self) -> Ouroboros3DReader:
        return Ouroboros3DReader(self.cache.folder)

    def assets(self, names: Sequence[str]) -> list[Asset]:
        """The meshes, called by their names."""
        assets = self.tree.assets([self.uid(name) for name in names])
        if self._uids is None:
            return assets
        return [replace(one, uid=name, own_uid=one.uid) for name, one in zip(names, assets, strict=True)]

    def _files(self, names: Sequence[str]) -> list[MeshLocation]:
        files = self.tree.files([self.uid(name) for name in names])
        if self._uids is None:
            return files
        return [MeshLocation(name, file.path) for name, file in zip(names, files, strict=True)]

    def prepare(self, names: Sequence[str], tested: Sequence[str], surface_points: int) -> None:
        """Render what is not in the cache yet, with a progress bar.

        Raises:
            ValueError: rendering cannot work at all, or the cache cannot be written.
        """
        self._render(self._files(names))
        if surface_points:
            self._render(self.cache.complete(self._files(tested)), surface_points)

    def _render(self, files: list[MeshLocation], surface_points: int = 0) -> None:
        """Render what is missing; only of that, all that the tree knows is read."""
        missing = self.cache.missing(files, retry_failed=self._retry_failed, surface_points=surface_points)
        self.cache.render(
            self.assets([file.uid for file in missing]),
            workers=self._workers,
            timeout_s=self._timeout_s,
            retry_failed=self._retry_failed,
            surface_points=surface_points,
        )

    def left_out(
        self, asked_for: Mapping[Split, Sequence[str]], tested: Split | None, surface_points: int
    ) -> dict[str, LeftOut]:
        """Those that could not be rendered.

        Raises:
            ValueError: one is neither in the cache nor among those that failed.
        """
        files = {split: self._files(names) for split, names in asked_for.items()}
        # Of all splits at once, so that the cache is listed once.
        rendered = {file.uid for file in self.cache.complete([file for members in files.values() for file in members])}
        found: dict[str, LeftOut] = {}
        for split, members in files.items():
            found |= self._not_rendered(split, members, rendered, surface_points if split == tested else 0)
        return found

    def _not_rendered(
        self, split: Split, files: Sequence[MeshLocation], rendered: set[str], surface_points: int
    ) -> dict[str, LeftOut]:
        if surface_points:
            rendered = {name for name in rendered if self.cache.holds(name, surface_points)}
        missing = [file for file in files if file.uid not in rendered]
        failures = self.cache.failures(missing, surface_points)
        unknown = [file.uid for file in missing if file.uid not in failures]
        if unknown:
            raise ValueError(
                f"{self.cache.folder}: expected rendered views of {len(files)} {split} objects, {len(unknown)} are "
                f"missing ({', '.join(unknown[:3])}, ...); call prepare_data() first."
            )
        listed = self.cache.folder / "failures.jsonl"
        return {name: LeftOut("render", f"{entry.stage}: {entry.error}", listed) for name, entry in failures.items()}

    def refuse_failed_check(self, used: Collection[str]) -> None:
        """Nothing: meshes have no cameras that could be wrong."""

    def true_points(self, names: Sequence[str], surface_points: int, image_size: int) -> int:
        """`surface_points`, since an object that they could not be made for is left out."""
        return surface_points

    def has_depth(self, names: Sequence[str]) -> bool:
        """Never: views in the cache have true geometry instead."""
        return False

    def _read(self, name: str) -> PosedObject:
        return self._views.read(name)

    def true_geometry(self, name: str, surface_points: int) -> TrueGeometry:
        """The true geometry of an object, rendered with its views.

        Raises:
            SampleError: it was not written, or is broken.
        """
        return self._views.true_geometry(name, surface_points)

    def list_unreadable(self, name: str, error: SampleError) -> Path:
        """Nothing is listed: views in the cache are made again.

        Raises:
            SampleError: always, with the way to do so.
        """
        raise SampleError(
            f"{error} Remove {self.cache.folder / name}-*: the same command renders the object again."
        ) from error

    def listed(self, names: Sequence[str]) -> dict[str, LeftOut]:
        """Nothing: what cannot be read in the cache is rendered again."""
        return {}

    def protocol(self, names: Sequence[str], left_out: Collection[str]) -> dict[str, Any]:
        """A hash of the mesh files and the rig, and what the rig says."""
        return {
            "data_sha256": self.cache.assets_sha256(names),
            "fov_deg": self._rig.fov_deg,
            "radius": self._rig.radius,
            "elevation_deg": list(self._rig.elevation_deg),
            "resize_filter": "none",  # views are rendered at this size
        }
