"""The visual hull of silhouettes: what posed views could all be views of, and how much of each view it explains.

A point belongs to the hull if every view sees it inside the object's silhouette. Where cameras are right, the hull
holds the object, so that its image covers each silhouette; where they are wrong, views carve away what others need
(Laurentini, The visual hull concept for silhouette-based image understanding, 1994). The hull never leaves a silhouette
by more than the tolerance, so the share that it covers is the intersection over union of the two.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ouroboros3d.cameras import Cameras

SIZE = 64  # pixels of a mask's longer side
RESOLUTION = 48  # points along an edge of the grid


@dataclass(frozen=True)
class Masks:
    """Where F views show the object, at no more than `SIZE` pixels.

    Args:
        solid: [F, h, w] bool, the pixel is more than half covered.
        core: [F, h, w] bool, it is solid with all its neighbours: the hull has to explain it. What is thinner falls
            between two points of the grid, however right the cameras are.
        touched: [F, h, w] bool, the object covers any part of the pixel or of a neighbour: the hull may lie here. The
            neighbours spare thin parts, which fall between two pixels or two points of the grid.
        clipped: [F] bool, the object goes on beyond the image, so that a point outside of it may be the object's.
    """

    solid: Tensor
    core: Tensor
    touched: Tensor
    clipped: Tensor

    @classmethod
    def of(cls, alpha: Tensor) -> "Masks":
        """Masks of views.

        Args:
            alpha: [F, H, W] in [0, 1].
        """
        height, width = alpha.shape[-2:]
        shrink = max(1.0, max(height, width) / SIZE)
        size = (max(1, round(height / shrink)), max(1, round(width / shrink)))
        solid = F.adaptive_avg_pool2d(alpha, size) > 0.5
        # Renderers leave traces of rounding where nothing is.
        touched = F.adaptive_max_pool2d((alpha > 0.02).float(), size)
        return cls(solid, ~_grown(~solid), _grown(touched > 0), on_border(alpha))

    def __getitem__(self, views: list[int]) -> "Masks":
        """Some of the views, or the same in another order."""
        return Masks(self.solid[views], self.core[views], self.touched[views], self.clipped[views])


def on_border(alpha: Tensor) -> Tensor:
    """[F] bool, whether views [F, H, W] show a mostly opaque object on a border pixel: it was cut off there."""
    rim = [alpha[:, 0], alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1]]
    return (torch.cat(rim, dim=1) > 0.5).any(dim=1)


@dataclass(frozen=True)
class Hull:
    """A visual hull, and how it looks from the views that it was carved by.

    Args:
        points: [N, 3] its points of the grid, scene units.
        images: [F, h, w] bool, where the views see it.
        coverage: [F] share of each mask's core that it covers; 1 for a view without one.
    """

    points: Tensor
    images: Tensor
    coverage: Tensor

    @property
    def extent(self) -> float:
        """The longest edge of the box around it, scene units; 0 where all was carved away."""
        if not len(self.points):
            return 0.0
        return (self.points.amax(dim=0) - self.points.amin(dim=0)).max().item()


def carve_silhouettes(masks: Masks, cameras: Cameras, resolution: int = RESOLUTION) -> Hull:
    """Carve a grid in the cube that the cameras see around the origin.

    Views that show nothing do not carve: they say that something is wrong, but not where.

    Args:
        masks: of F views.
        cameras: [F].
        resolution: points along an edge of the cube.
    """
    points = grid(cameras, resolution)
    count, height, width = masks.solid.shape
    for view in range(count):
        if masks.solid[view].any():
            pixel, depth = _pixels(points, cameras[view], height, width)
            # Beyond the image lies background, unless the object was cut off there.
            beyond = (depth > 0) & masks.clipped[view]
            inside = torch.cat([masks.touched[view].flatten(), torch.zeros(1, dtype=torch.bool)])[pixel]
            points = points[inside | (beyond & (pixel == height * width))]
    seen = torch.zeros(count, height * width + 1, dtype=torch.bool)
    for view in range(count):
        seen[view, _pixels(points, cameras[view], height, width)[0]] = True
    # Neighbouring points may be more than a pixel apart where a camera is near.
    images = _grown(seen[:, :-1].view(count, height, width))
    whole = masks.core.flatten(1).sum(dim=1)
    covered = (images & masks.core).flatten(1).sum(dim=1)
    return Hull(points, images, torch.where(whole > 0, covered / whole.clamp(min=1), 1.0))


def grid(cameras: Cameras, resolution: int) -> Tensor:
    """Points [resolution^3, 3] of the cube around the origin that the widest camera [F] of all sees whole."""
    focal = torch.diagonal(cameras.intrinsics_norm, dim1=-2, dim2=-1)[:, :2].amin(dim=-1)
    half = (cameras.centres.norm(dim=-1) * 0.5 / focal).max()
    place = ((torch.arange(resolution) + 0.5) / resolution * 2 - 1) * half
    return torch.stack(torch.meshgrid(place, place, place, indexing="ij"), dim=-1).view(-1, 3)


def _pixels(points: Tensor, camera: Cameras, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where a camera sees points [N, 3]: pixels [N] counted along the rows, height * width for none; depth [N]."""
    uv, depth = camera.project(points)
    column, row = (uv[:, 0] * width).floor(), (uv[:, 1] * height).floor()
    inside = (depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return torch.where(inside, row * width + column, height * width).long(), depth


def _grown(mask: Tensor) -> Tensor:
    """A mask [F, h, w] with its neighbours."""
    return F.max_pool2d(mask.float()[:, None], 3, stride=1, padding=1)[:, 0] > 0
