"""Image metrics against closed forms and an independent implementation."""

import math
from pathlib import Path

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from ouroboros3d.metrics.images import (
    best_constant_psnr,
    constant_psnr,
    foreground_moments,
    load_lpips,
    load_lpips_or_explain,
    psnr,
    ssim,
)


def test_psnr_of_a_constant_error() -> None:
    images = torch.full((2, 3, 3, 8, 8), 0.5)
    images[1, 2] += 0.1
    found = psnr(images, torch.full_like(images, 0.4))
    assert found.shape == (2, 3)
    assert found[0, 0].item() == pytest.approx(20.0, abs=1e-4)
    assert found[1, 2].item() == pytest.approx(-20 * math.log10(0.2), abs=1e-4)
    assert psnr(images, images)[0, 0].item() == pytest.approx(100.0), "the squared error is floored at 1e-10"


def test_psnr_of_the_foreground_counts_no_other_pixel() -> None:
    target = torch.zeros(3, 4, 4)
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, 1:3, 1:3] = True
    image = torch.where(mask, 0.1, 1.0).expand(3, 4, 4)
    assert psnr(image, target, mask).item() == pytest.approx(20.0, abs=1e-4)
    assert psnr(image, target, ~mask).item() == pytest.approx(0.0, abs=1e-4)
    assert psnr(image, target, torch.zeros_like(mask)).isnan()


def test_ssim_is_torchmetrics_away_from_the_border() -> None:
    torch.manual_seed(0)
    one = torch.rand(2, 3, 40, 40)
    two = (one + 0.2 * torch.rand(2, 3, 40, 40)).clamp(0, 1)
    expected = structural_similarity_index_measure(one, two, data_range=1.0, reduction="none")
    # The two pad and crop the border differently: a quarter of the pixels here lie within reach of it.
    torch.testing.assert_close(ssim(one, two), expected, rtol=0, atol=0.01)
    assert ssim(one, one).tolist() == pytest.approx([1.0, 1.0])
    worse = (one + 0.6 * torch.rand(2, 3, 40, 40)).clamp(0, 1)
    assert (ssim(one, worse) < ssim(one, two)).all()


def test_the_best_constant_image_beats_every_other_one() -> None:
    torch.manual_seed(0)
    targets, mask = torch.rand(5, 2, 3, 6, 6), torch.rand(5, 2, 1, 6, 6) > 0.4
    moments = foreground_moments(targets, mask)
    colours = torch.rand(7, 3)
    direct = torch.stack([psnr(c[:, None, None].expand_as(targets), targets, mask) for c in colours], dim=-1)
    torch.testing.assert_close(constant_psnr(moments, colours), direct, rtol=0, atol=1e-3)  # float32 cancellation
    best = best_constant_psnr(moments)
    assert best.shape == (5, 2)
    assert (best.mean() >= direct.flatten(0, 1).mean(0)).all()


def test_the_best_constant_image_is_the_colour_of_a_uniform_object() -> None:
    mask = torch.zeros(1, 1, 1, 6, 6, dtype=torch.bool)
    mask[..., 2:4, 2:5] = True
    targets = torch.where(mask, torch.tensor([0.25, 0.5, 0.75]).view(3, 1, 1), torch.ones(()))
    # All three levels lie on the search's grid of 32nds.
    assert best_constant_psnr(foreground_moments(targets, mask)).item() > 60


def test_lpips_without_weights_says_where_they_belong(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # a closed port: no download, whatever the machine
    with pytest.raises(FileNotFoundError, match=r"alexnet-owt-7be5be79.pth"):
        load_lpips("alex")
    assert load_lpips_or_explain("vgg") is None
    assert "vgg16-397923af.pth" in caplog.text


def test_lpips_reads_weights_from_the_hub_folder(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import alexnet

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = torch.hub.get_dir()
    path = f"{folder}/checkpoints/alexnet-owt-7be5be79.pth"
    Path(path).parent.mkdir(parents=True)
    torch.manual_seed(0)
    # torchvision's files are in the format of torch before 1.6.
    torch.save(alexnet(weights=None).state_dict(), path, _use_new_zipfile_serialization=False)
    model = load_lpips("alex")
    one = torch.rand(1, 3, 64, 64) * 2 - 1
    assert model(one, one).item() == pytest.approx(0.0, abs=1e-6)
    assert model(one, -one).item() > 1e-4
    assert not any(parameter.requires_grad for parameter in model.parameters())
