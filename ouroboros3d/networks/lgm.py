"""The reconstructor R: LGM (Tang et al. 2024), a U-Net that turns a few views into 3D Gaussians, with a time input.

State-dict keys are 3DTopia/LGM's own, so its weights load by name. Sizes of its three configurations:

| | down_channels | attention at levels | up_channels | attention at levels |
|---|---|---|---|---|
| big (default) | 64, 128, 256, 512, 1024, 1024 | last three | 1024, 1024, 512, 256, 128 | first three |
| small | 64, 128, 256, 512, 1024, 1024 | last three | 1024, 1024, 512, 256 | first three |
| tiny | 32, 64, 128, 256, 512 | last | 512, 256, 128 | first |
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ouroboros3d.cameras import Cameras, full_precision
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.networks.gaussian_unet import GaussianUNet

# The time input of clean images: c_noise of the smallest noise level of Stable Video Diffusion's schedule.
CLEAN_C_NOISE = math.log(0.002) / 4

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class LGM(nn.Module):
    """Views and their cameras to 3D Gaussians, one per pixel of a smaller map of each used view.

    Gaussians are in the cameras' frame, positions within [-1, 1]: LGM's weights expect the input-relative frame with
    camera 0 at radius 1.5, the published Ouroboros3D weights the radius of its renders (1.7417).

    Args:
        input_size: pixels that the views are resized to.
        down_channels: width of each level, finest first.
        down_attention: attention over all views' tokens at these levels.
        mid_attention: attention in the middle.
        up_channels: width of each level, coarsest first; fewer levels than down = a smaller map.
        up_attention: attention at these levels.
        layers_per_block: residual blocks of a down level (an up level has one more).
        num_groups: groups of the norms; divides every width. On a CPU few groups are much faster.
        num_heads: heads of the attentions.
        time_embedding: whether the noise level of the images is an input. Its projections start at zero, so weights
            without it (LGM's) give the same output.
        time_channels: sinusoidal channels of that input, a quarter of its embedding's width; even.
        reconstruct_views: how many of the views are used, spread evenly over those given (0, 2, 4, 6 of 8).
        resize: `published` resizes without antialiasing, as LGM and the published code do.
        rotation_norm: `published` normalises quaternions over all Gaussians instead of each, as LGM's first release
            (`model_fp16.safetensors`) was trained.
        scale_activation: `published` takes 0.07 * softplus instead of 0.1 * softplus where reconstruct_views > 4.
        position: `absolute` takes the head's three values as the position, as LGM; `pixel_aligned` as an offset along
            the view's camera axes (OpenCV: right, down, forward) from the point of the Gaussian's ray nearest to the
            origin. Gaussians on their pixels' rays are the idea of Splatter Image and GS-LRM: how cameras project is
            then given, which a small network cannot learn in minutes. Weights of one do not serve the other.
        time_shape: `per_object` takes c_noise [B]; `published` takes what the published code takes: no axes, [1], or
            one value per used view [B * V'] (one per object fails there, so it trains at batch 1 alone), and tells the
            network 0 of clean images, which is also the noise level 1's.
        gradient_checkpointing: recompute the U-Net's activations in the backward pass.
    """

    def __init__(
        self,
        input_size: int = 256,
        down_channels: tuple[int, ...] = (64, 128, 256, 512, 1024, 1024),
        down_attention: tuple[bool, ...] = (False, False, False, True, True, True),
        mid_attention: bool = True,
        up_channels: tuple[int, ...] = (1024, 1024, 512, 256, 128),
        up_attention: tuple[bool, ...] = (True, True, True, False, False),
        layers_per_block: int = 2,
        num_groups: int = 32,
        num_heads: int = 16,
        time_embedding: bool = True,
        time_channels: int = 128,
        reconstruct_views: int = 4,
        resize: Literal["antialiased", "published"] = "antialiased",
        rotation_norm: Literal["per_gaussian", "published"] = "per_gaussian",
        scale_activation: Literal["constant", "published"] = "constant",
        position: Literal["absolute", "pixel_aligned"] = "absolute",
        time_shape: Literal["per_object", "published"] = "per_object",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check_sizes(input_size, down_channels, down_attention, up_channels, up_attention, num_groups, num_heads)
        self.input_size = input_size
        self.splat_size = input_size >> (len(down_channels) - len(up_channels))
        self.time_embedding = time_embedding
        self.reconstruct_views = reconstruct_views
        self.resize = resize
        self.rotation_norm = rotation_norm
        self.scale_activation = scale_activation
        self.position = position
        self.time_shape = time_shape
        self.unet = GaussianUNet(
            tuple(down_channels),
            tuple(down_attention),
            mid_attention,
            tuple(up_channels),
            tuple(up_attention),
            layers_per_block,
            num_groups,
            num_heads,
            time_channels if time_embedding else 0,
            gradient_checkpointing,
        )
        self.conv = nn.Conv2d(14, 14, kernel_size=1)
        if position == "pixel_aligned":  # every Gaussian starts on its ray, not scattered around it
            nn.init.zeros_(self.conv.weight[:3])
            assert self.conv.bias is not None
            nn.init.zeros_(self.conv.bias[:3])

    def view_indices(self, views: int) -> list[int]:
        """Indices of the used views among `views` given ones, evenly spread and starting at the input view.

        Raises:
            ValueError: fewer views than are to be used.
        """
        if views < self.reconstruct_views:
            raise ValueError(
                f"views: expected at least reconstruct_views = {self.reconstruct_views}, got {views}; "
                "generate more views or lower reconstruct_views."
            )
        return [i * views // self.reconstruct_views for i in range(self.reconstruct_views)]

    def forward(self, images_01: Tensor, cameras: Cameras, c_noise: Tensor | None = None) -> Gaussians:
        """Reconstruct objects from their views.

        Args:
            images_01: [B, V, 3, H, W]; values beyond [0, 1] (noisy estimates) are taken as they are.
            cameras: [B, V].
            c_noise: [B] ln(sigma) / 4 of the images' noise level; None = clean. Ignored without a time input.

        Returns:
            Gaussians [B, V' * splat_size^2], view by view, each row by row.

        Raises:
            ValueError: shapes that do not fit.
        """
        batch, views = images_01.shape[:2]
        if cameras.shape != images_01.shape[:2]:
            raise ValueError(f"cameras: expected [B, V] = {[batch, views]}, got {list(cameras.shape)}.")
        chosen = self.view_indices(views)
        used = cameras[:, chosen]
        raw = self.raw(self.prepare(images_01[:, chosen], used), c_noise).float()
        if self.position == "pixel_aligned":
            raw = torch.cat([self._on_rays(raw[..., :3], used), raw[..., 3:]], dim=-1)
        return self.activate(raw)

    def _on_rays(self, offsets: Tensor, cameras: Cameras) -> Tensor:
        """Positions [B, N, 3] from offsets [B, N, 3] along the axes of each Gaussian's camera [B, V']."""
        origins, directions = cameras.rays(self.splat_size, self.splat_size)  # [B, V', 3, s, s]
        nearest = origins - (origins * directions).sum(2, keepdim=True) * directions
        anchors = nearest.flatten(3).transpose(2, 3).to(offsets)  # [B, V', s^2, 3]
        rotation = cameras.c2w_opencv[..., :3, :3].to(offsets)
        with full_precision(offsets):
            moved: Tensor = anchors + offsets.unflatten(1, anchors.shape[1:3]) @ rotation.transpose(-1, -2)
        return moved.flatten(1, 2)

    def prepare(self, images_01: Tensor, cameras: Cameras) -> Tensor:
        """The network's input [B, V', 9, S, S]: images resized and normalised, and Plücker rays (o x d, d)."""
        batch, views = images_01.shape[:2]
        images = images_01.flatten(0, 1)
        if images.shape[-2:] != (self.input_size, self.input_size):
            images = functional.interpolate(
                images,
                size=(self.input_size, self.input_size),
                mode="bilinear",
                align_corners=False,
                antialias=self.resize == "antialiased",
            )
        mean = images.new_tensor(_IMAGENET_MEAN)[:, None, None]
        std = images.new_tensor(_IMAGENET_STD)[:, None, None]
        rays = cameras.plucker(self.input_size, self.input_size).flatten(0, 1)
        inputs = torch.cat([(images - mean) / std, rays.to(images.dtype)], dim=1)
        return inputs.reshape(batch, views, *inputs.shape[1:])

    def raw(self, inputs: Tensor, c_noise: Tensor | None = None) -> Tensor:
        """Values before the activations, [B, V' * s^2, 14], of prepared inputs [B, V', 9, S, S]."""
        batch, views = inputs.shape[:2]
        time = self._time(c_noise, batch, views, inputs.device) if self.time_embedding else None
        flat = inputs.flatten(0, 1).to(self.conv.weight.dtype)
        maps: Tensor = self.conv(self.unet(flat, views, time))
        return maps.permute(0, 2, 3, 1).reshape(batch, -1, 14)

    def activate(self, raw: Tensor) -> Gaussians:
        """Gaussians of values [B, N, 14] before the activations: position, opacity, scale, quaternion, colour."""
        raw = raw.float()  # splats half a pixel apart at 512 px are not distinct in half precision
        factor = 0.07 if self.scale_activation == "published" and self.reconstruct_views > 4 else 0.1
        normalised_over = -1 if self.rotation_norm == "per_gaussian" else 1
        return Gaussians(
            means=raw[..., 0:3].clamp(-1, 1),
            scales=factor * functional.softplus(raw[..., 4:7]),
            quaternions=functional.normalize(raw[..., 7:11], dim=normalised_over),
            opacities=raw[..., 3:4].sigmoid(),
            colours=0.5 * raw[..., 11:14].tanh() + 0.5,
        )

    def _time(self, c_noise: Tensor | None, batch: int, views: int, device: torch.device) -> Tensor:
        if c_noise is None:
            return torch.full((1,), 0.0 if self.time_shape == "published" else CLEAN_C_NOISE, device=device)
        shape = tuple(c_noise.shape)
        if self.time_shape == "published":
            if shape not in ((), (1,), (batch * views,)):
                raise ValueError(
                    f"c_noise: expected no axes, [1] or [{batch * views}] (one per view) with time_shape = published, "
                    f"got {list(shape)}; train at batch 1 or set time_shape: per_object."
                )
            return c_noise.reshape(-1)
        if shape != (batch,):
            raise ValueError(f"c_noise: expected [B] = [{batch}], one per object, got {list(shape)}.")
        return c_noise.repeat_interleave(views)

    def extra_repr(self) -> str:
        """Sizes and switches, for `print(model)`."""
        return (
            f"input_size={self.input_size}, splat_size={self.splat_size}, reconstruct_views={self.reconstruct_views}, "
            f"resize={self.resize}, rotation_norm={self.rotation_norm}, scale_activation={self.scale_activation}, "
            f"position={self.position}, time_shape={self.time_shape}"
        )


def _check_sizes(
    input_size: int,
    down_channels: tuple[int, ...],
    down_attention: tuple[bool, ...],
    up_channels: tuple[int, ...],
    up_attention: tuple[bool, ...],
    num_groups: int,
    num_heads: int,
) -> None:
    for name, flags, widths in (
        ("down_attention", down_attention, down_channels),
        ("up_attention", up_attention, up_channels),
    ):
        if len(flags) != len(widths):
            raise ValueError(f"{name}: expected one flag for each of {len(widths)} levels, got {len(flags)}.")
    if len(up_channels) > len(down_channels) or not up_channels:
        raise ValueError(f"up_channels: expected 1 to {len(down_channels)} levels, got {len(up_channels)}.")
    if input_size % 2 ** (len(down_channels) - 1):
        raise ValueError(
            f"input_size: expected a multiple of {2 ** (len(down_channels) - 1)} ({len(down_channels)} levels), "
            f"got {input_size}."
        )
    for width, attention in zip((*down_channels, *up_channels), (*down_attention, *up_attention), strict=True):
        if width % num_groups or (attention and width % num_heads):
            raise ValueError(
                f"channels: expected multiples of num_groups = {num_groups} and, with attention, of num_heads = "
                f"{num_heads}, got {width}."
            )
