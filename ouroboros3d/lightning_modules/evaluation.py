"""What a test and a validation measure: every metric of a generation against the ground truth, by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.metrics.columns import Column, measured
from ouroboros3d.metrics.geometry import Alignment, align, surface_distances
from ouroboros3d.metrics.images import LPIPS
from ouroboros3d.metrics.per_object import Compared, PerObject
from ouroboros3d.renderers.gaussians import GaussianRenderer
from ouroboros3d.renderers.rendering import Rendering
from ouroboros3d.renderers.surface_fusion import carve, depth_maps, fuse_depth, inspection_cameras

_SEED = 0  # of the choice among fused surface points


@dataclass(frozen=True)
class EvaluationSettings:
    """How geometry is compared, and whether the sampler is watched.

    Args:
        fscore_thresholds: distances tau of F-score@tau, scene units (the object's longest edge is at most 1).
        alignment: of the reconstruction to the true surface before they are compared: `none`, `yaw` (search about the
            up axis), or `icp` (after yaw). The distance without it is reported beside it; volume IoU and coordinate
            error are always without.
        yaw_step_deg: step of the yaw search in degrees.
        align_scale: ICP may scale too.
        depth_size: pixels on the side of the depth maps that are fused to surface points.
        step_curves: test records quality at every denoising step, at the cost of a reconstruction and a rendering each.
    """

    fscore_thresholds: tuple[float, ...] = (0.01, 0.02, 0.05)
    alignment: Alignment = "none"
    yaw_step_deg: float = 15.0
    align_scale: bool = False
    depth_size: int = 128
    step_curves: bool = True

    def __post_init__(self) -> None:
        """Check the ranges once.

        Raises:
            ValueError: a threshold, step or size out of range.
        """
        if not all(threshold > 0 for threshold in self.fscore_thresholds):
            raise ValueError(f"fscore_thresholds: expected distances > 0, got {list(self.fscore_thresholds)}.")
        if not 0 < self.yaw_step_deg <= 360 or self.depth_size < 8:
            raise ValueError(
                "yaw_step_deg, depth_size: expected degrees in (0, 360] and at least 8 pixels, got "
                f"{self.yaw_step_deg:g} and {self.depth_size}."
            )


class Evaluator(nn.Module):
    """The metrics by the name of their column; one metric object a name.

    `mv_*` are the generated views (without the input view), `render_*` the Gaussians rendered at the same cameras,
    `novel_*` at the novel cameras; `*_foreground` counts only pixels of the object; `gap_*` compares generated views
    with their own reconstruction's renders. Which there are is said in `ouroboros3d/metrics/columns.py`.

    Args:
        settings: how geometry is compared.
    """

    def __init__(self, settings: EvaluationSettings) -> None:
        super().__init__()
        self.settings = settings
        self._columns: list[Column] = []
        self.metrics: dict[str, PerObject] = {}
        for column in measured(settings.fscore_thresholds, settings.alignment != "none"):
            if column.metric is not None and column.metric is not LPIPS:
                self._columns.append(column)
                self.metrics[column.name] = column.metric(**column.options)
        # Lightning logs a metric object only where it finds it among the modules; a name may hold a dot, a key may not.
        self.registered = nn.ModuleList(self.metrics.values())

    def use_lpips(self, network: nn.Module) -> None:
        """Measure LPIPS too, from now on, with a loaded network."""
        for column in measured((), aligned=False):
            if column.metric is LPIPS and column.name not in self.metrics:
                self._columns.append(column)
                self.metrics[column.name] = LPIPS(network, **column.options)

    @property
    def measures_lpips(self) -> bool:
        """Whether `use_lpips` was called."""
        return any(column.metric is LPIPS for column in self._columns)

    def images(self, batch: MultiviewBatch, views_01: Tensor, rendering: Rendering) -> dict[str, Tensor]:
        """Values [B] by name of generated views and renders.

        Args:
            batch: the ground truth.
            views_01: [B, V, 3, H, W] generated.
            rendering: [B, V + T, ...] of their reconstruction.
        """
        count = batch.cameras.shape[1]
        renders, alpha = rendering.colour.clamp(0, 1), rendering.alpha
        mask, novel_mask = batch.alpha[:, 1:] > 0.5, batch.target_alpha > 0.5
        return self._values(
            {
                ("images", "mv"): (views_01[:, 1:], batch.images_01[:, 1:], mask),
                ("images", "render"): (renders[:, 1:count], batch.images_01[:, 1:], mask),
                ("images", "novel"): (renders[:, count:], batch.target_images_01, novel_mask),
                ("images", "gap"): (views_01, renders[:, :count]),
                ("masks", "render"): (alpha[:, 1:count], batch.alpha[:, 1:]),
                ("masks", "novel"): (alpha[:, count:], batch.target_alpha),
            }
        )

    def geometry(
        self, batch: MultiviewBatch, gaussians: Gaussians, rendering: Rendering, renderer: GaussianRenderer
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The reconstructed surface, fused from rendered depth, against the true one.

        Args:
            batch: the ground truth, with true geometry.
            gaussians: [B, N] the reconstruction.
            rendering: [B, V + T, ...] of it.
            renderer: of depth maps.

        Returns:
            values [B] by name, and the alignment [B, 4, 4] in the object's frame, or None without one.
        """
        assert batch.surface is not None
        assert batch.occupancy is not None
        settings = self.settings
        truth = batch.surface
        cameras = inspection_cameras().to(gaussians.means.device)
        depth = depth_maps(
            gaussians.transform(batch.object_from_batch), renderer, cameras, settings.depth_size, settings.depth_size
        )
        found = fuse_depth(depth, cameras, truth.points.shape[1], _SEED)
        matrix = None
        given: dict[tuple[Compared, str], tuple[Any, ...]] = {}
        distances = surface_distances(found, truth)
        if settings.alignment != "none":
            given["surfaces", "unaligned"] = (distances,)
            found, matrix = align(found, truth, settings.alignment, settings.yaw_step_deg, settings.align_scale)
            distances = surface_distances(found, truth)
        given["surfaces", "object"] = (distances,)
        given["solids", "object"] = (carve(depth, cameras, batch.occupancy.shape[-1]), batch.occupancy)
        return self._values(given) | self.coordinates(batch, rendering), matrix

    def coordinates(self, batch: MultiviewBatch, rendering: Rendering) -> dict[str, Tensor]:
        """The surface points that renders show against the true ones, which need no more than the depth of the views.

        Args:
            batch: the ground truth, with true coordinates.
            rendering: [B, V + T, ...] of the reconstruction.

        Returns:
            values [B] by name.
        """
        assert batch.coordinates is not None
        views = batch.cameras.shape[1]
        found, alpha = rendering.coordinates[:, :views], rendering.alpha[:, :views]
        return self._values({("coordinates", "object"): (found, alpha, batch.coordinates, batch.alpha)})

    def _values(self, given: Mapping[tuple[Compared, str], tuple[Any, ...]]) -> dict[str, Tensor]:
        """Values [B] by name of all columns whose metric compares what is given."""
        return {
            column.name: self.metrics[column.name].values(*given[column.metric.compares, column.of])
            for column in self._columns
            if column.metric is not None and (column.metric.compares, column.of) in given
        }
