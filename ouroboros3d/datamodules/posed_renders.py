"""Posed renders as a source of views: read as they are, with a list of the objects that are left out."""

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ouroboros3d.datamodules.left_out import Ledger, LeftOut
from ouroboros3d.datamodules.orbits.true_geometry import TrueGeometry
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.meshes import Asset
from ouroboros3d.datamodules.readers.posed import PosedObject, PosedReader
from ouroboros3d.datamodules.rendering.folder import rendered_here
from ouroboros3d.datamodules.sources import OneTree
from ouroboros3d.datamodules.splits import Split
from ouroboros3d.datamodules.untrusted import MissingPackage
from ouroboros3d.datamodules.verdicts import check_command, read_verdict, refusal

log = logging.getLogger(__name__)


class PosedRenders(OneTree):
    """A tree of posed renders, with a list of the objects that are left out.

    Args:
        tree: the renders.
        cache_dir: where that list and the verdicts of check-data are kept.
        retry_failed: try objects again that could not be read before.
        ignore_check: use the tree, and every object that can be read, whatever check-data found.
        uids: as `OneTree`.
    """

    tree: PosedReader

    def __init__(
        self,
        tree: PosedReader,
        cache_dir: Path,
        retry_failed: bool = False,
        ignore_check: bool = False,
        uids: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(tree, uids)
        self._cache_dir = cache_dir
        self._retry_failed = retry_failed
        self._ignore_check = ignore_check
        self.ledger = Ledger.of(tree, cache_dir)

    def assets(self, names: Sequence[str]) -> list[Asset]:
        """Nothing: posed renders are no meshes."""
        return []

    def prepare(self, names: Sequence[str], tested: Sequence[str], surface_points: int) -> None:
        """Make nothing, since views are there; where it was asked for, try again what was listed as unreadable."""
        if self._retry_failed:
            self.ledger.retry(self.tree)

    def left_out(
        self, asked_for: Mapping[Split, Sequence[str]], tested: Split | None, surface_points: int
    ) -> dict[str, LeftOut]:
        """Those that are listed or not on disk; the objects of a test are opened, since its protocol names all cameras.

        Objects that a list of the tree names and that are not there are all known at once, and count once they are.
        """
        names = [name for part in asked_for.values() for name in part]
        gone = self.tree.absent()
        reason = "expected on disk, since a list of the tree names it, got no folder."
        absent = {name: LeftOut("list", reason, self.tree.root) for name in names if self.uid(name) in gone}
        if tested:
            listed = self.listed(asked_for[tested])
            for name in asked_for[tested]:
                if name not in listed and name not in absent:
                    try:
                        self.object(name)
                    except SampleError as error:
                        self.ledger.add(self.uid(name), str(error))
        return self.listed(names) | absent

    def refuse_failed_check(self, used: Collection[str]) -> None:
        """The verdict on the tree as it is opened.

        Raises:
            ValueError: it failed.
        """
        if self._ignore_check:
            return
        verdict = read_verdict(self.tree, self._cache_dir)
        if verdict is None:
            if not rendered_here(self.tree.root):
                command = check_command(self.tree, self._cache_dir)
                log.warning("%s: cameras were never checked; run %s", self.tree.root, command)
        elif reason := refusal(verdict, self.tree, self._cache_dir):
            raise ValueError(reason)

    def true_points(self, names: Sequence[str], surface_points: int, image_size: int) -> int:
        """Points of the true surface that the tree carries for all of the objects, else 0."""
        stored = all(self.tree.has_true_geometry(self.uid(name), surface_points) for name in names)
        if stored and self.object(names[0]).size == (image_size, image_size):
            return surface_points
        log.info("%s carries no true surfaces at this size: they are not measured, images are.", self.tree.root)
        return 0

    def has_depth(self, names: Sequence[str]) -> bool:
        """Whether all of the objects come with depth; not where a package that it needs is missing."""
        maps = [self.object(name).depth for name in names]
        first = maps[0] if maps else None
        if first is None or None in maps:
            return False
        try:
            first(0)
        except MissingPackage as error:
            log.info("%s: coordinate_error is not measured: %s", self.tree.root, error)
            return False
        except SampleError:  # of one object alone, which says so when it is tested
            pass
        return True

    def _read(self, name: str) -> PosedObject:
        return self.tree.read(self.uid(name))

    def true_geometry(self, name: str, surface_points: int) -> TrueGeometry:
        """The true geometry of an object, where its format has it.

        Raises:
            SampleError: it has not, or what is stored is broken.
        """
        return self.tree.true_geometry(self.uid(name), surface_points)

    def list_unreadable(self, name: str, error: SampleError) -> Path:
        """List an object, and say so.

        Raises:
            SampleError: the disk is away, and no object is to blame.
        """
        if not self.tree.root.is_dir():
            raise error
        self.ledger.add(self.uid(name), str(error))
        return self.ledger.path

    def listed(self, names: Sequence[str]) -> dict[str, LeftOut]:
        """Those of the objects that the list names by now, and why."""
        known = self.ledger.read()
        if self._ignore_check:
            known = {uid: one for uid, one in known.items() if one.found_by != "check"}
        return {name: known[self.uid(name)] for name in names if self.uid(name) in known} if known else {}

    def protocol(self, names: Sequence[str], left_out: Collection[str]) -> dict[str, Any]:
        """What the renders say themselves: the range of their cameras, and a hash of these and the files."""
        digest = hashlib.sha256(f"{self.tree.name}\n".encode())
        digest.update("".join(f"{name} cannot be read" for name in names if name in left_out).encode())
        found = {name: self.object(name) for name in names if name not in left_out}
        for name, item in found.items():
            digest.update(name.encode())
            digest.update(item.cameras.c2w_opencv.numpy().tobytes() + item.cameras.intrinsics_norm.numpy().tobytes())
            digest.update(",".join(str(image.size) for image in item.images).encode())
        seen = {"data_sha256": digest.hexdigest(), "resize_filter": "hamming"}
        if not found:
            return seen
        centres = torch.cat([item.cameras.centres for item in found.values()])
        focal = torch.cat([item.cameras.intrinsics_norm[:, 0, 0] for item in found.values()])
        radius = centres.norm(dim=-1)
        return {
            **seen,
            "fov_deg": _range(torch.rad2deg(2 * torch.atan(0.5 / focal))),
            "radius": _range(radius),
            "elevation_deg": _range(torch.rad2deg(torch.asin(centres[:, 1] / radius))),
        }


def _range(values: Tensor) -> list[float]:
    """Lowest and highest of values, to three decimals."""
    return [round(values.min().item(), 3), round(values.max().item(), 3)]
