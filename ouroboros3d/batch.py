"""The one typed object between data and model, checked once where the two meet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras, check_rigid
from ouroboros3d.surface import Surface


@dataclass(frozen=True)
class MultiviewBatch:
    """B objects with V generated views (view 0 is the input) and T novel supervision views.

    Everything but `surface` and `occupancy` is in the input-relative frame: camera 0 has azimuth 0 and elevation 0 and
    looks at the origin.

    Args:
        uids: B names.
        images_01: [B, V, 3, H, W] sRGB on `background`; [B, 1, 3, H, W] where only the input is known (predict).
        alpha: [B, V, 1, H, W] (or V = 1, as the images).
        cameras: [B, V].
        target_images_01: [B, T, 3, H, W] on `background`; T may be 0.
        target_alpha: [B, T, 1, H, W].
        target_cameras: [B, T].
        background: [B, 3] the colour that the images were composited on, in [0, 1].
        object_from_batch: [B, 4, 4] maps points of the input-relative frame to the object's own (+Y up) frame.
        surface: [B, P] points of the true surface in the object's own frame, where geometry is measured; else None.
        occupancy: [B, R, R, R] bool, truly solid cells of a cube around the object in its own frame; else None.
        coordinates: [B, V, 3, H, W] true surface points that `cameras` see, scene units; `alpha` says where there is
            one, and NaN where none is known all the same. None where geometry is not measured.
    """

    uids: tuple[str, ...]
    images_01: Tensor
    alpha: Tensor
    cameras: Cameras
    target_images_01: Tensor
    target_alpha: Tensor
    target_cameras: Cameras
    background: Tensor
    object_from_batch: Tensor
    surface: Surface | None = None
    occupancy: Tensor | None = None
    coordinates: Tensor | None = None

    @property
    def input_images_01(self) -> Tensor:
        """[B, 3, H, W] the input view."""
        return self.images_01[:, 0]

    def to(self, device: torch.device | str) -> "MultiviewBatch":
        """The batch on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "uids"}
        return replace(self, **{name: value.to(device) for name, value in values.items() if value is not None})

    def __getitem__(self, objects: slice) -> "MultiviewBatch":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value[objects] for name, value in values.items() if value is not None})

    def object(self, index: int) -> "MultiviewBatch":
        """The batch of one object."""
        return self[index : index + 1]

    def __len__(self) -> int:
        """B."""
        return len(self.uids)

    def validate(self) -> "MultiviewBatch":
        """Check shapes, value ranges, poses and finiteness; returns itself.

        Whoever makes a batch calls it once, on the CPU: on a GPU every check would wait for what was begun before.

        Raises:
            ValueError: what is off, with the expected and the found value.
        """
        batch, views = self.cameras.shape
        targets = self.target_cameras.shape[1]
        height, width = self.images_01.shape[-2:]
        shown = self.images_01.shape[1]
        expected = {
            "images_01": (batch, shown, 3, height, width),
            "alpha": (batch, shown, 1, height, width),
            "target_images_01": (batch, targets, 3, height, width),
            "target_alpha": (batch, targets, 1, height, width),
            "background": (batch, 3),
            "object_from_batch": (batch, 4, 4),
        }
        if len(self.uids) != batch or shown not in (1, views):
            raise ValueError(
                f"MultiviewBatch: expected {len(self.uids)} uids with 1 or V images each to match cameras [B, V] = "
                f"{[batch, views]}, got images of {list(self.images_01.shape)}."
            )
        for name, shape in expected.items():
            tensor = getattr(self, name)
            if tuple(tensor.shape) != shape:
                raise ValueError(f"MultiviewBatch.{name}: expected shape {list(shape)}, got {list(tensor.shape)}.")
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"MultiviewBatch.{name}: expected finite values, got NaN or infinity ({self.uids}).")
            if name != "object_from_batch" and tensor.numel() and not (tensor.min() >= 0 and tensor.max() <= 1):
                low, high = tensor.min().item(), tensor.max().item()
                raise ValueError(f"MultiviewBatch.{name}: expected values in [0, 1], got [{low:g}, {high:g}].")
        if self.coordinates is not None and self.coordinates.shape != (batch, views, 3, height, width):
            raise ValueError(
                f"MultiviewBatch.coordinates: expected shape {[batch, views, 3, height, width]}, got "
                f"{list(self.coordinates.shape)}."
            )
        if self.surface is not None and self.surface.points.shape[0] != batch:
            raise ValueError(f"MultiviewBatch.surface: expected {batch} objects, got {self.surface.points.shape[0]}.")
        for name, cameras, count in (
            ("cameras", self.cameras, views),
            ("target_cameras", self.target_cameras, targets),
        ):
            if tuple(cameras.shape) != (batch, count) or cameras.intrinsics_norm.shape != (batch, count, 3, 3):
                found = [list(cameras.c2w_opencv.shape), list(cameras.intrinsics_norm.shape)]
                raise ValueError(
                    f"MultiviewBatch.{name}: expected poses {[batch, count, 4, 4]} and intrinsics "
                    f"{[batch, count, 3, 3]}, got {found}."
                )
            focal = torch.diagonal(cameras.intrinsics_norm[..., :2, :2], dim1=-2, dim2=-1)
            if not bool(torch.isfinite(cameras.intrinsics_norm).all() and (focal > 0).all()):
                raise ValueError(f"MultiviewBatch.{name}: expected finite intrinsics with positive focal lengths.")
        check_rigid(torch.cat([self.cameras.c2w_opencv, self.target_cameras.c2w_opencv], dim=1))
        return self


@runtime_checkable
class ListedData(Protocol):
    """What results and runs ask of a data module beside batches: which objects they are of, and which are left out.

    `skipped` holds the objects that a test leaves out because it measured them before it was interrupted.
    """

    skipped: frozenset[str]

    def tested_uids(self) -> list[str]:
        """The objects that can be tested."""

    @property
    def failed(self) -> Mapping[str, str]:
        """Of the objects that a test was asked for, those that are left out, and why."""

    def titles(self, names: Sequence[str]) -> Mapping[str, str]:
        """What the makers of objects call them, of those of whom it is known."""

    def test_protocol(self) -> dict[str, Any]:
        """What a test on this data is measured under, by the names of a result row."""

    def left_out_rows(self) -> list[dict[str, str]]:
        """Every object that is left out: its uid and split, who found it, the reason, and the list that says so."""
