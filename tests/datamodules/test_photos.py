"""`PhotoDataModule`: the cameras that a variant was trained with."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser
from PIL import Image

from ouroboros3d.commands.arguments import as_arguments, parse_run_options
from ouroboros3d.commands.run_folders import take_images
from ouroboros3d.datamodules.photos import PhotoDataModule


@pytest.mark.parametrize(("input_radius", "expected"), [("1.5", 1.5), ("null", 2.0)])
def test_predict_keeps_the_cameras_of_training(input_radius: str, expected: float, tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 30), "white")
    image.paste((200, 30, 30), (10, 8, 30, 20))
    image.save(tmp_path / "cup.png")
    of_training = [
        "--data=ouroboros3d.datamodules.objaverse.ObjaverseDataModule",
        *("--data.rig.image_size=16", "--data.num_views=2", "--data.rig.radius=2.0", "--data.rig.fov_deg=35"),
        f"--data.input_radius={input_radius}",
    ]
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
    asked = take_images(parse_run_options("predict", [*of_training, "--image", str(tmp_path / "cup.png")]))
    module = parser.instantiate(parser.parse_args(as_arguments(asked.settings))).data
    assert isinstance(module, PhotoDataModule)
    module.setup("predict")
    (batch,) = module.predict_dataloader()
    assert batch.images_01.shape == (1, 1, 3, 16, 16)
    torch.testing.assert_close(batch.cameras.centres.norm(dim=-1), torch.full((1, 2), expected))
    focal = 0.5 / torch.tan(torch.deg2rad(torch.tensor(17.5)))
    torch.testing.assert_close(batch.cameras.intrinsics_norm[0, :, 0, 0], focal.expand(2))
