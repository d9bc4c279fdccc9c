"""`PhotoDataModule`: photos as inputs of `predict`."""

from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.photo_framing import Removal, photo_batch
from ouroboros3d.datamodules.views import Background


class PhotoDataModule(LightningDataModule):
    """Input images for `predict`, framed as the training renders are, with the cameras of the orbit to generate.

    Args:
        images: the image files.
        rig: the cameras of training; photos take their image size, distance and field of view from it.
        num_views: views to generate, as in training.
        background: what the object is composited on.
        removal: how the object is found where a file has no transparency: `border` or `rembg`.
        elevation_deg: how far above the object the photos were taken, an assumption.
        input_radius: that training scaled every object's distance from its input view to, in place of the rig's radius;
            null for none.
    """

    def __init__(
        self,
        images: list[Path],
        rig: OrbitRig = OrbitRig(),  # noqa: B008 - frozen
        num_views: int = 4,
        background: Background = "white",
        removal: Removal = "border",
        elevation_deg: float = 10.0,
        input_radius: float | None = None,
    ) -> None:
        super().__init__()
        names = [path.stem for path in images]
        if len(set(names)) != len(names):
            raise ValueError(f"images: expected files of different names (each names its result), got {names}.")
        self.images = images
        self.rig = rig
        self.num_views = num_views
        self.background: Background = background
        self.removal: Removal = removal
        self.elevation_deg = elevation_deg
        self.radius = rig.radius if input_radius is None else input_radius

    def setup(self, stage: str) -> None:
        """Read every image, so that a bad one is known before any work is done.

        Raises:
            ValueError: an unreadable image, or one without a foreground.
        """
        self._batches = [
            photo_batch(
                path,
                image_size=self.rig.image_size,
                num_views=self.num_views,
                background=self.background,
                removal=self.removal,
                elevation_deg=self.elevation_deg,
                radius=self.radius,
                fov_deg=self.rig.fov_deg,
            )
            for path in self.images
        ]

    def predict_dataloader(self) -> DataLoader[MultiviewBatch]:
        """One image a batch."""
        return DataLoader(self._batches, batch_size=None)  # type: ignore[arg-type] # a list is a map-style dataset

    def transfer_batch_to_device(
        self, batch: MultiviewBatch, device: torch.device, dataloader_idx: int
    ) -> MultiviewBatch:
        """The batch on the trainer's device."""
        return batch.to(device)
