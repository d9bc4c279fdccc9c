"""`PhotoDataModule`: photos as inputs of `predict`."""

from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.datamodules.photo_framing import Removal, photo_batch
from ouroboros3d.datamodules.views import Background


class PhotoDataModule(LightningDataModule):
    """Input images for `predict`, framed as the training renders are, with the cameras of the orbit to generate.

    Args:
        images: the image files.
        image_size: height and width in pixels, as in training.
        num_views: views to generate, as in training.
        background: what the object is composited on.
        removal: how the object is found where a file has no transparency: `border` or `rembg`.
        elevation_deg: how far above the object the photos were taken, an assumption.
        radius: distance of the cameras, as in training.
        fov_deg: the whole field of view in degrees, as in training.
        input_radius: that training scaled every object's distance from its input view to, in place of `radius`; null
            for none.
    """

    def __init__(
        self,
        images: list[Path],
        image_size: int = 32,
        num_views: int = 4,
        background: Background = "white",
        removal: Removal = "border",
        elevation_deg: float = 10.0,
        radius: float = 1.7417,
        fov_deg: float = 39.598,
        input_radius: float | None = None,
    ) -> None:
        super().__init__()
        names = [path.stem for path in images]
        if len(set(names)) != len(names):
            raise ValueError(f"images: expected files of different names (each names its result), got {names}.")
        self.images = images
        self.image_size = image_size
        self.num_views = num_views
        self.background: Background = background
        self.removal: Removal = removal
        self.elevation_deg = elevation_deg
        self.radius = radius if input_radius is None else input_radius
        self.fov_deg = fov_deg

    def setup(self, stage: str) -> None:
        """Read every image, so that a bad one is known before any work is done.

        Raises:
            ValueError: an unreadable image, or one without a foreground.
        """
        self._batches = [
            photo_batch(
                path,
                image_size=self.image_size,
                num_views=self.num_views,
                background=self.background,
                removal=self.removal,
                elevation_deg=self.elevation_deg,
                radius=self.radius,
                fov_deg=self.fov_deg,
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
