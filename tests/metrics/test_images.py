"""Image metrics against closed forms and an independent implementation."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from ouroboros3d.metrics.images import (
    LPIPS,
    PSNR,
    SSIM,
    CoordinateError,
    MaskIoU,
    best_constant_psnr,
    constant_psnr,
    foreground_moments,
    load_lpips,
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


def test_ssim_is_that_of_torchmetrics_up_to_the_border() -> None:
    torch.manual_seed(0)
    one = torch.rand(2, 3, 40, 40)
    two = (one + 0.2 * torch.rand(2, 3, 40, 40)).clamp(0, 1)
    expected = structural_similarity_index_measure(one, two, data_range=1.0, reduction="none")
    # Both continue the images by reflection and count every pixel; without those at the border it would be 8e-5 more.
    torch.testing.assert_close(ssim(one, two), expected, rtol=0, atol=1e-5)  # float32; none seen
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


@pytest.fixture(scope="module")
def lpips_network() -> torch.nn.Module:
    return load_lpips("alex")


def some_views(objects: int = 2, views: int = 3, size: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Smooth targets, predictions with a little noise, and an off-centre foreground."""
    coarse = torch.rand(objects * views, 3, 6, 6)
    targets = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    targets = targets.view(objects, views, 3, size, size)
    mask = torch.zeros(objects, views, 1, size, size, dtype=torch.bool)
    mask[..., size // 8 : size // 2, size // 4 : -size // 8] = True
    return (targets + 0.1 * torch.randn_like(targets)).clamp(0, 1), targets, mask


def test_psnr_of_an_object_is_the_mean_of_its_views() -> None:
    images, targets, mask = some_views()
    expected = [
        [peak_signal_noise_ratio(*pair, data_range=1.0) for pair in zip(*both, strict=True)]
        for both in zip(images, targets, strict=True)
    ]
    assert_close(PSNR().values(images, targets, mask), torch.tensor(expected).mean(1))
    metric = PSNR()
    metric.update(images[:1], targets[:1])
    metric.update(images[1:], targets[1:])
    assert metric.compute().item() == pytest.approx(torch.tensor(expected).mean().item(), rel=1e-5)


def test_psnr_of_the_foreground_is_that_of_the_crop() -> None:
    images, targets, mask = some_views(views=1)
    crop = (..., slice(8, 32), slice(16, -8))
    expected = [
        peak_signal_noise_ratio(*pair, data_range=1.0) for pair in zip(images[crop], targets[crop], strict=True)
    ]
    assert_close(PSNR(foreground=True).values(images, targets, mask), torch.stack(expected))


def test_ssim_of_the_foreground_is_the_mean_of_the_map_there() -> None:
    images, targets, mask = some_views()
    _, expected = structural_similarity_index_measure(
        images.flatten(0, 1), targets.flatten(0, 1), data_range=1.0, reduction="none", return_full_image=True
    )
    expected = expected[:, :, 8:32, 16:-8].mean((1, 2, 3)).view(2, 3).mean(1)
    assert_close(SSIM(foreground=True).values(images, targets, mask), expected, rtol=0, atol=1e-5)
    assert_close(SSIM().values(images, targets, mask), ssim(images, targets).mean(1))


def test_lpips_is_that_of_the_network(lpips_network: torch.nn.Module) -> None:
    images, targets, mask = some_views()
    expected = torch.stack([lpips_network(a * 2 - 1, b * 2 - 1).mean() for a, b in zip(images, targets, strict=True)])
    assert_close(LPIPS(lpips_network).values(images, targets, mask), expected)
    images, targets = (picture * mask + 1.0 * ~mask for picture in (images, targets))
    expected = torch.stack([lpips_network(a * 2 - 1, b * 2 - 1).mean() for a, b in zip(images, targets, strict=True)])
    assert_close(LPIPS(lpips_network, foreground=True).values(images, targets, mask), expected)


def test_lpips_networks_are_shared_and_in_no_checkpoint(lpips_network: torch.nn.Module) -> None:
    metrics = torch.nn.ModuleList([LPIPS(lpips_network), LPIPS(lpips_network, foreground=True)])
    assert not list(metrics.parameters())
    assert not metrics.state_dict()


@pytest.mark.parametrize("foreground", [False, True])
@pytest.mark.parametrize("kind", [PSNR, SSIM, LPIPS])
def test_more_noise_scores_worse(kind: type, foreground: bool, lpips_network: torch.nn.Module) -> None:
    metric = LPIPS(lpips_network, foreground) if kind is LPIPS else kind(foreground)
    _, targets, mask = some_views()
    noise = torch.randn_like(targets)
    scores = [metric.values((targets + sigma * noise).clamp(0, 1), targets, mask) for sigma in (0.0, 0.05, 0.15, 0.4)]
    better, worse = (scores[:-1], scores[1:]) if metric.higher_is_better else (scores[1:], scores[:-1])
    assert all((b > w).all() for b, w in zip(better, worse, strict=True)), scores


@pytest.mark.parametrize("kind", [PSNR, SSIM, LPIPS])
def test_the_foreground_is_all_that_counts(kind: type, lpips_network: torch.nn.Module) -> None:
    metric = LPIPS(lpips_network, foreground=True) if kind is LPIPS else kind(foreground=True)
    images, targets, mask = some_views()
    reach = torch.nn.functional.max_pool2d(mask.flatten(0, 1).float(), 11, stride=1, padding=5).view_as(mask) > 0
    elsewhere = torch.where(reach, images, 1 - images)  # SSIM's windows see 5 pixels beyond the mask
    assert_close(metric.values(elsewhere, targets, mask), metric.values(images, targets, mask))
    mask[0, 0] = False
    assert_close(
        metric.values(images, targets, mask)[0], metric.values(images[:1, 1:], targets[:1, 1:], mask[:1, 1:])[0]
    )
    assert metric.values(images, targets, torch.zeros_like(mask)).isnan().all()
    assert metric.values(images[:, :0], targets[:, :0], mask[:, :0]).isnan().tolist() == [True, True]
    with pytest.raises(ValueError, match=f"foreground's {kind.__name__}, got None"):
        metric.values(images, targets)


@pytest.mark.parametrize("kind", [SSIM, LPIPS])
def test_half_precision_around_a_metric_does_not_reach_it(kind: type, lpips_network: torch.nn.Module) -> None:
    metric = LPIPS(lpips_network) if kind is LPIPS else kind()
    images, targets, _ = some_views()
    expected = metric.values(images, targets)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(metric.values(images, targets), expected, rtol=0, atol=0)


def test_mask_iou_of_overlapping_rectangles() -> None:
    alpha, target = torch.zeros(2, 3, 1, 8, 8), torch.zeros(2, 3, 1, 8, 8)
    alpha[0, 0, 0, 1:4, 2:6] = 0.51  # 12 pixels
    target[0, 0, 0, 2:5, 3:7] = 1.0  # 12 pixels, 6 in common
    target[0, 1, 0, :4] = 1.0  # nothing predicted
    alpha[0, 1] = 0.5
    found = MaskIoU().values(alpha, target)
    assert found[0].item() == pytest.approx((6 / 18 + 0) / 2), "the third view is empty in both"
    assert found[1].isnan()
    assert MaskIoU().values(target, target)[0] == 1


def test_a_shifted_mask_scores_worse_the_further_it_is() -> None:
    target = torch.zeros(1, 1, 1, 16, 16)
    target[..., 4:10, 3:12] = 1
    scores = [MaskIoU().values(target.roll(shift, -1), target).item() for shift in range(5)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 5


def test_coordinate_error_of_a_shifted_map() -> None:
    target = torch.rand(2, 3, 3, 8, 8) - 0.5
    found = target.clone()
    found[0, 0] += torch.tensor([0.03, 0.0, 0.04]).view(3, 1, 1)  # 0.05 away
    found[0, 1] += torch.tensor([0.0, 0.1, 0.0]).view(3, 1, 1)
    alpha, target_alpha = torch.zeros(2, 3, 1, 8, 8), torch.ones(2, 3, 1, 8, 8)
    alpha[0, :2, :, 2:5, 1:7] = 0.5
    found = torch.where(alpha >= 0.5, found, 0.0)  # as rendered: zero where there is no surface
    values = CoordinateError().values(found, alpha, target, target_alpha)
    assert values[0].item() == pytest.approx((0.05 + 0.1) / 2), "the third view shows no surface"
    assert values[1].isnan()
    worse = CoordinateError().values(target + 2 * (found - target), alpha, target, target_alpha)
    assert worse[0].item() == pytest.approx(2 * values[0].item())
    target[0, 0, 1, :3], target[0, 1] = torch.nan, torch.nan  # true points that nobody knows count nowhere
    assert CoordinateError().values(found, alpha, target, target_alpha)[0].item() == pytest.approx(0.05)
