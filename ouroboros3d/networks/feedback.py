"""Feedback as a network's input: adapters that turn maps of the 3D so far into features for every level of a U-Net."""

from collections.abc import Mapping, Sequence

import torch
from diffusers.models.adapter import FullAdapter
from torch import Tensor, nn

from ouroboros3d.networks.attention import bfloat16_on_cpu


class FeedbackAdapter(FullAdapter):
    """diffusers' T2I adapter (Mou et al. 2023): a feature map for each level of the U-Net from one kind of map.

    With `zero_head`, one 1x1 convolution per level starts at zero, so that a new adapter changes nothing at step 0.

    Args:
        channels: widths of the U-Net's levels.
        downscale: pixels of a map along one side of a latent pixel.
        zero_head: whether the zero-initialised convolutions follow.
    """

    def __init__(self, channels: tuple[int, ...], downscale: int, zero_head: bool) -> None:
        # Three residual blocks a stage, as the published adapters have.
        super().__init__(in_channels=3, channels=list(channels), num_res_blocks=3, downscale_factor=downscale)
        self.head = nn.ModuleList(nn.Conv2d(c, c, kernel_size=1) for c in channels) if zero_head else None
        for parameter in self.head.parameters() if self.head is not None else ():
            nn.init.zeros_(parameter)

    def forward(self, maps_01: Tensor) -> list[Tensor]:
        """Features [B*V, C_i, h / 2^i, w / 2^i] for every level i of maps [B*V, 3, H, W]."""
        if bfloat16_on_cpu(maps_01):  # convolutions alone: a quarter faster in this order of memory
            maps_01 = maps_01.contiguous(memory_format=torch.channels_last)
        features: list[Tensor] = super().forward(maps_01)
        if self.head is None:
            return features
        return [head(feature) for head, feature in zip(self.head, features, strict=True)]


class AdaptedFeedback(dict[str, Tensor]):
    """Feedback maps and what the adapters make of them, so that steps that keep the maps do not adapt them again.

    Args:
        maps: the maps by kind.
        features: per level [B*V, C_i, h_i, w_i].
    """

    def __init__(self, maps: Mapping[str, Tensor], features: Sequence[Tensor]) -> None:
        super().__init__(maps)
        self.features = features
