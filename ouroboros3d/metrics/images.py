"""PSNR, SSIM, LPIPS, masks, coordinate maps: per image, mean over views, then over objects (docs/metrics.md)."""

import logging
import warnings
from abc import abstractmethod
from functools import partial
from pathlib import Path

import torch
from kornia.metrics import ssim as kornia_ssim
from torch import Tensor, nn

from ouroboros3d.metrics.backbones import LpipsNet, read_backbone
from ouroboros3d.metrics.per_object import PerObject

_LEAST_SIDE: dict[LpipsNet, int] = {"vgg": 16, "alex": 31}  # pixels of which the last pooling leaves one
_log = logging.getLogger(__name__)


def psnr(images: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """10 log10(1 / MSE) of each image; MSE is floored at 1e-10.

    Args:
        images: [..., 3, H, W] in [0, 1].
        targets: as images.
        mask: [..., 1, H, W] bool; None = the whole image. An image without a marked pixel gives NaN.

    Returns:
        [...] decibels.
    """
    error = (images - targets).square().mean(dim=-3, keepdim=True)
    if mask is None:
        mse = error.mean(dim=(-3, -2, -1))
    else:
        mse = torch.where(mask, error, 0.0).sum(dim=(-3, -2, -1)) / mask.sum(dim=(-3, -2, -1))
    return -10 * mse.clamp_min(1e-10).log10()


def foreground_moments(targets: Tensor, mask: Tensor) -> Tensor:
    """What `constant_psnr` needs of images: their foreground's mean colour and mean squared norm.

    Args:
        targets: [..., 3, H, W] in [0, 1].
        mask: [..., 1, H, W] bool foreground.

    Returns:
        [..., 4]; NaN for an image without foreground.
    """
    count = mask.sum(dim=(-2, -1))
    mean = (targets * mask).sum(dim=(-2, -1)) / count
    square = ((targets * mask) ** 2).sum(dim=(-3, -2, -1))[..., None] / count
    return torch.cat([mean, square], dim=-1)


def constant_psnr(moments: Tensor, colours: Tensor) -> Tensor:
    """Foreground PSNR of constant images: [..., M] for moments [..., 4] of targets and colours [M, 3]."""
    mean, square = moments[..., None, :3], moments[..., 3:]
    mse = (square - 2 * (mean * colours).sum(-1) + (colours**2).sum(-1)) / 3
    return -10 * mse.clamp_min(1e-10).log10()


def best_constant_psnr(moments: Tensor) -> Tensor:
    """Foreground PSNR [...] of the ONE constant image that is best on average over all images with moments [..., 4].

    What a prediction that knows nothing of its input can reach. Searched over 33^3 colours.
    """
    levels = torch.linspace(0, 1, 33, dtype=moments.dtype)
    values = constant_psnr(moments, torch.cartesian_prod(levels, levels, levels))
    return values[..., values.flatten(0, -2).nanmean(0).argmax()]


def ssim(images: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """Structural similarity of each image: Gaussian window 11, sigma 1.5, data range 1.

    Args:
        images: [..., 3, H, W] in [0, 1].
        targets: as images.
        mask: [..., 1, H, W] bool; the map of similarities, whose windows see all pixels, is averaged over its pixels.
            None = the whole image. An image without a marked pixel gives NaN.

    Returns:
        [...], 1 for equal images.
    """
    flat = kornia_ssim(images.flatten(0, -4), targets.flatten(0, -4), window_size=11, max_val=1.0)
    if mask is None:
        return flat.mean(dim=(-3, -2, -1)).view(images.shape[:-3])
    similarity = flat.mean(dim=-3, keepdim=True).view(mask.shape)
    return torch.where(mask, similarity, 0.0).sum(dim=(-3, -2, -1)) / mask.sum(dim=(-3, -2, -1))


def load_lpips(net: LpipsNet) -> nn.Module:
    """LPIPS (Zhang et al. 2018, version 0.1) on its ImageNet backbone; input in [-1, 1].

    Weights are read from files of this machine, see `backbones`; a line of the log says from which. The random stream
    is left where it was.

    Raises:
        FileNotFoundError: the backbone's weights are on no file; the message says how to get them.
        ValueError: the file holds anything else; nothing in it is executed.
    """
    import lpips

    with warnings.catch_warnings(), torch.device("meta"):  # else 138 million weights are drawn for being thrown away
        # lpips asks torchvision for no weights by an argument that torchvision has renamed.
        warnings.simplefilter("ignore", UserWarning)
        model: nn.Module = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    # Convolution `slice1.0` of lpips is `features.0` of torchvision.
    wanted = dict(model.get_submodule("net").named_parameters())
    places = {name: f"features.{name.partition('.')[2]}" for name in wanted}
    shapes = {places[name]: parameter.shape for name, parameter in wanted.items()}
    convolutions, file = read_backbone(net, shapes)
    layers = torch.load(Path(lpips.__file__).parent / f"weights/v0.1/{net}.pth", map_location="cpu", weights_only=True)
    state = {f"scaling_layer.{name}": value for name, value in lpips.ScalingLayer().state_dict().items()}
    state |= {f"net.{name}": convolutions[place] for name, place in places.items()}
    for name, value in layers.items():  # lin0.model.1.weight, which the network holds twice: also as lins.0
        state |= {name: value, name.replace("lin", "lins.", 1): value}
    model.load_state_dict(state, assign=True)
    model.register_forward_pre_hook(partial(_refuse_small, net))
    _log.info("LPIPS looks through the %s backbone of %s", net, file)
    return model.eval().requires_grad_(False)


def _refuse_small(net: LpipsNet, _: nn.Module, images: tuple[Tensor, ...]) -> None:
    """Say what is too small for the backbone's last pooling, before torch does in its words."""
    height, width = images[0].shape[-2:]
    if min(height, width) < _LEAST_SIDE[net]:
        raise ValueError(
            f"LPIPS: expected images of at least {_LEAST_SIDE[net]} pixels a side for the {net} backbone, got {width} x"
            f" {height}; choose a larger image_size ({', '.join(f'{n} takes {s}' for n, s in _LEAST_SIDE.items())})."
        )


def load_lpips_or_explain(net: LpipsNet) -> nn.Module | None:
    """LPIPS for a metric: None, with one logged line, where its weights cannot be had."""
    try:
        return load_lpips(net)
    except FileNotFoundError as error:
        _log.warning("lpips is left out of the metrics. %s", error)
        return None


class _ImageMetric(PerObject):
    """A value per image, averaged over the views that have one.

    Args:
        foreground: only pixels of the mask count.
    """

    compares = "images"

    def __init__(self, foreground: bool = False) -> None:
        super().__init__()
        self.foreground = foreground

    def values(self, images: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean over the views of each object.

        Args:
            images: [B, V, 3, H, W] in [0, 1].
            targets: as images.
            mask: [B, V, 1, H, W] bool, the foreground; unused for the whole image.

        Returns:
            [B]; NaN for an object without a view, or without foreground in any view.

        Raises:
            ValueError: the foreground is asked for and no mask given.
        """
        if self.foreground and mask is None:
            raise ValueError(f"mask: expected [B, V, 1, H, W] for the foreground's {type(self).__name__}, got None.")
        if images.shape[1] == 0:
            return images.new_full(images.shape[:1], torch.nan)
        with torch.autocast(images.device.type, enabled=False):
            return self._per_image(images.float(), targets.float(), mask if self.foreground else None).nanmean(1)

    @abstractmethod
    def _per_image(self, images: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
        """One value [B, V] an image; NaN where the mask is empty."""


class PSNR(_ImageMetric):
    """`psnr`, in decibels; of the foreground, the error of its pixels only.

    Args:
        foreground: only pixels of the mask count.
    """

    higher_is_better = True

    def _per_image(self, images: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
        return psnr(images, targets, mask)


class SSIM(_ImageMetric):
    """`ssim`; of the foreground, its map averaged over the foreground's pixels.

    Args:
        foreground: only pixels of the mask count.
    """

    higher_is_better = True

    def _per_image(self, images: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
        return ssim(images, targets, mask)


class LPIPS(_ImageMetric):
    """LPIPS; of the foreground, that of the images with every pixel outside of the mask white in both.

    Args:
        net: what `load_lpips` returns. Metrics may share it; it is no part of the metric's own modules, because it
            belongs in no checkpoint.
        foreground: only pixels of the mask count.
    """

    higher_is_better = False

    def __init__(self, net: nn.Module, foreground: bool = False) -> None:
        super().__init__(foreground)
        self._net = [net]

    def _per_image(self, images: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
        shape = images.shape[:2]
        if mask is not None:
            images, targets = torch.where(mask, images, 1.0), torch.where(mask, targets, 1.0)
        net = self._net[0].to(images.device)
        distance: Tensor = net(images.flatten(0, 1) * 2 - 1, targets.flatten(0, 1) * 2 - 1).view(shape)
        return distance if mask is None else torch.where(mask.flatten(2).any(2), distance, torch.nan)


class MaskIoU(PerObject):
    """Intersection over union of where two alphas are above 0.5; views where both are empty do not count."""

    compares = "masks"
    higher_is_better = True

    def values(self, alpha: Tensor, target_alpha: Tensor) -> Tensor:
        """Mean over views [B] for alphas [B, V, 1, H, W]; NaN for an object that both leave empty everywhere."""
        mask, target = (alpha > 0.5).flatten(2), (target_alpha > 0.5).flatten(2)
        return ((mask & target).sum(2) / (mask | target).sum(2)).nanmean(1)


class CoordinateError(PerObject):
    """Mean distance between two maps of surface points, where both show a surface."""

    compares = "coordinates"
    higher_is_better = False

    def values(self, coordinates: Tensor, alpha: Tensor, target_coordinates: Tensor, target_alpha: Tensor) -> Tensor:
        """Mean over the pixels of a view, then over the views that have such a pixel.

        Args:
            coordinates: [B, V, 3, H, W] scene units.
            alpha: [B, V, 1, H, W]; a surface is where it is at least 0.5, as in `Rendering`.
            target_coordinates: as coordinates; NaN where none is known.
            target_alpha: as alpha.

        Returns:
            [B] scene units; NaN for an object without a pixel that both show.
        """
        distance = (coordinates - target_coordinates).norm(dim=2)
        both = ((alpha >= 0.5) & (target_alpha >= 0.5))[:, :, 0] & ~target_coordinates.isnan().any(dim=2)
        return (torch.where(both, distance, 0.0).sum(dim=(2, 3)) / both.sum(dim=(2, 3))).nanmean(1)
