"""PSNR, SSIM and LPIPS with the definitions of FORMATS.md 4.1: per image, mean over views, then over objects."""

import logging
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal
from urllib.error import URLError
from urllib.request import urlopen

import torch
from kornia.metrics import ssim as kornia_ssim
from torch import Tensor, nn

LpipsNet = Literal["vgg", "alex"]

# torchvision's files of the ImageNet backbones that LPIPS is built on.
_BACKBONES = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}
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


def ssim(images: Tensor, targets: Tensor) -> Tensor:
    """Structural similarity [...] of images [..., 3, H, W] in [0, 1]: Gaussian window 11, sigma 1.5, data range 1."""
    flat = kornia_ssim(images.flatten(0, -4), targets.flatten(0, -4), window_size=11, max_val=1.0)
    return flat.mean(dim=(-3, -2, -1)).view(images.shape[:-3])


def load_lpips(net: LpipsNet) -> nn.Module:
    """LPIPS (Zhang et al. 2018) with ImageNet weights; input in [-1, 1].

    The backbone's weights are read from torch's hub folder, and downloaded there once where a network is.

    Raises:
        ValueError: the file holds anything but tensors; nothing in it is executed.
        FileNotFoundError: they are not on disk and cannot be downloaded; the message says where the file belongs.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / _BACKBONES[net]
    if not file.is_file():
        url = f"https://download.pytorch.org/models/{file.name}"
        try:
            with urlopen(url, timeout=5):  # the download itself has no time limit
                pass
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), hash_prefix=file.stem.rsplit("-")[-1])
        except (URLError, TimeoutError) as error:
            raise FileNotFoundError(
                f"LPIPS: the {net} backbone's weights are not at {file} and cannot be downloaded here; put {url} there."
            ) from error
    try:  # before torchvision reads the file with whatever code is in it
        torch.load(file, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError) as error:
        raise ValueError(f"LPIPS: expected the {net} backbone's weights in {file}, got another file.") from error
    from lpips import LPIPS

    with warnings.catch_warnings():
        # lpips asks torchvision for weights by an argument that torchvision has renamed.
        warnings.simplefilter("ignore", UserWarning)
        model: nn.Module = LPIPS(net=net, verbose=False)
    return model.eval().requires_grad_(False)


def load_lpips_or_explain(net: LpipsNet) -> nn.Module | None:
    """LPIPS for a metric: None, with one logged line, where its weights cannot be had."""
    try:
        return load_lpips(net)
    except FileNotFoundError as error:
        _log.warning("lpips is left out of the metrics. %s", error)
        return None
