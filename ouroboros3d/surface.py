"""Points with normals on the surface of objects: what geometry metrics compare."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Surface:
    """P points on the surface of each of B objects; an object without any surface has NaN points and normals.

    Args:
        points: [B, P, 3] scene units.
        normals: [B, P, 3] unit.
    """

    points: Tensor
    normals: Tensor

    @property
    def shape(self) -> torch.Size:
        """[B, P]."""
        return self.points.shape[:-1]

    @property
    def present(self) -> Tensor:
        """[B] bool, whether the object has a surface at all."""
        return self.points.isfinite().flatten(1).all(1)

    def __getitem__(self, index: object) -> "Surface":
        """The surfaces at an index of the leading axes, as on a tensor of shape [B, P]."""
        return Surface(self.points[index], self.normals[index])  # type: ignore[index]

    def to(self, device: torch.device | str) -> "Surface":
        """The surfaces on another device."""
        return Surface(self.points.to(device), self.normals.to(device))

    @staticmethod
    def cat(items: Sequence["Surface"]) -> "Surface":
        """Concatenate objects."""
        return Surface(torch.cat([s.points for s in items]), torch.cat([s.normals for s in items]))

    def transform(self, similarity: Tensor) -> "Surface":
        """The surfaces under a similarity of the scene.

        Args:
            similarity: [B, 4, 4] maps old points to new ones; rotation times one positive scale, and a translation.
        """
        with torch.autocast(self.points.device.type, enabled=False):
            linear = similarity[:, :3, :3].transpose(-1, -2)
            points = self.points @ linear + similarity[:, None, :3, 3]
            return Surface(points, torch.nn.functional.normalize(self.normals @ linear, dim=-1))
