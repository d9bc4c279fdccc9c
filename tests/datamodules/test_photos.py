"""`PhotoDataModule`: the cameras that a variant was trained with."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser
from PIL import Image

from ouroboros3d.commands.arguments import as_arguments, images_of, parse_run_options
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


def photo(path: Path, plain: bool = True) -> str:
    """A red box on white, or noise that no object can be cut out of."""
    image = Image.new("RGB", (40, 30), "white")
    image.paste((200, 30, 30), (10, 8, 30, 20))
    if not plain:
        image = Image.effect_noise((40, 30), 200).convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return str(path)


def test_a_photo_that_cannot_be_used_is_left_out_and_each_has_as_many_guesses_as_asked(tmp_path: Path) -> None:
    cup, busy = Path(photo(tmp_path / "cup.png")), Path(photo(tmp_path / "busy.png", plain=False))
    module = PhotoDataModule([busy, cup], samples=2)
    module.setup("predict")
    one, other = module.predict_dataloader()
    assert (one.uids, other.uids) == (("cup",), ("cup_1",)), "names, which the noise follows from"
    assert torch.equal(one.images_01, other.images_01)
    assert list(module.failed) == [busy]
    assert "expected a transparent or a uniform background" in module.failed[busy]
    assert module.picture("cup_1").size == (40, 30)
    with pytest.raises(ValueError, match="images: none of 2 can be used"):
        PhotoDataModule([busy, Path(photo(tmp_path / "noise.png", plain=False))]).setup("predict")
    with pytest.raises(ValueError, match="expected files of different names"):
        PhotoDataModule([cup, Path(photo(tmp_path / "cup_1.png"))], samples=2)


def test_folders_and_patterns_stand_for_the_photos_in_them(tmp_path: Path) -> None:
    a, b = photo(tmp_path / "box/b.png"), photo(tmp_path / "box/a.jpg")
    bracket = photo(tmp_path / "[red] chair.png")
    (tmp_path / "box/notes.txt").write_text("no photo")
    options = [f"--image={tmp_path / 'box'}", f"--image={tmp_path / 'b*/*.png'}", f"--image={bracket}"]
    assert images_of(parse_run_options("predict", options)) == [b, a, bracket], "each once, in order"
    (tmp_path / "empty").mkdir()
    for given, said in (("empty", "expected photos .* in the folder"), ("*.bmp", "no file"), ("none.png", "no file")):
        with pytest.raises(FileNotFoundError, match=said):
            images_of(parse_run_options("predict", [f"--image={tmp_path / given}"]))
