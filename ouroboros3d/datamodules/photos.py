"""`PhotoDataModule`: photos as inputs of `predict`."""

from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch.utils.data import DataLoader

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.photo_framing import Removal, photo_batch, read_photo
from ouroboros3d.datamodules.views import Background


class PhotoDataModule(LightningDataModule):
    """Input images for `predict`, framed as the training renders are, with the cameras of the orbit to generate.

    Args:
        images: the image files. One that cannot be used is listed in `failed` and left out.
        rig: the cameras of training; photos take their image size, distance and field of view from it.
        num_views: views to generate, as in training.
        background: what the object is composited on.
        removal: how the object is found where a file has no transparency: `border` or `rembg`.
        elevation_deg: how far above the object the photos were taken, an assumption.
        input_radius: that training scaled every object's distance from its input view to, in place of the rig's radius;
            null for none.
        samples: guesses at each photo. The noise follows from the name of a result: `cup`, `cup_1`, `cup_2` and so on.
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
        samples: int = 1,
    ) -> None:
        super().__init__()
        if samples < 1:
            raise ValueError(f"samples: expected at least 1 guess at each photo, got {samples}.")
        names = [path.stem + (f"_{sample}" if sample else "") for path in images for sample in range(samples)]
        if len(set(names)) != len(names):
            raise ValueError(f"images: expected files of different names (each names its result), got {names}.")
        self.images = images
        self.rig = rig
        self.num_views = num_views
        self.background: Background = background
        self.removal: Removal = removal
        self.elevation_deg = elevation_deg
        self.radius = rig.radius if input_radius is None else input_radius

        self.samples = samples
        self.sources: dict[str, Path] = {}
        self.failed: dict[Path, str] = {}

    def setup(self, stage: str) -> None:
        """Read every image, so that bad ones are known before any work is done.

        Raises:
            ValueError: none of the images can be used.
        """
        self._batches: list[MultiviewBatch] = []
        self.sources, self.failed = {}, {}
        for path in self.images:
            try:
                batch = photo_batch(
                    path,
                    image_size=self.rig.image_size,
                    num_views=self.num_views,
                    background=self.background,
                    removal=self.removal,
                    elevation_deg=self.elevation_deg,
                    radius=self.radius,
                    fov_deg=self.rig.fov_deg,
                )
            except ValueError as error:
                self.failed[path] = str(error)
                continue
            for sample in range(self.samples):
                name = path.stem + (f"_{sample}" if sample else "")
                self.sources[name] = path
                self._batches.append(replace(batch, uids=(name,)))
        if self.images and not self._batches:
            every = list(self.failed.values())
            raise ValueError(every[0] if len(every) == 1 else f"images: none of {len(every)} can be used: {every[0]}")

    def picture(self, uid: str) -> Image.Image:
        """The photo of a result, upright."""
        return read_photo(self.sources[uid])

    def predict_dataloader(self) -> DataLoader[MultiviewBatch]:
        """One image a batch."""
        return DataLoader(self._batches, batch_size=None)  # type: ignore[arg-type] # a list is a map-style dataset

    def transfer_batch_to_device(
        self, batch: MultiviewBatch, device: torch.device, dataloader_idx: int
    ) -> MultiviewBatch:
        """The batch on the trainer's device."""
        return batch.to(device)
