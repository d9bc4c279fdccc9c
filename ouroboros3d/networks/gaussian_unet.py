"""LGM's asymmetric U-Net with attention over all views of an object (Tang et al. 2024), with an optional time input.

Names of the members are 3DTopia/LGM's, so that its weights load by name.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ouroboros3d.networks.attention import attend

_SKIP_SCALE = math.sqrt(0.5)  # keeps the variance of a sum of two signals


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, with the time added between them.

    Args:
        in_channels: width of the input.
        out_channels: width of the output.
        num_groups: groups of the norms.
        time_channels: sinusoidal channels of the time input, a quarter of its embedding's width; 0 = no time input.
            The projection starts at zero.
    """

    def __init__(self, in_channels: int, out_channels: int, num_groups: int, time_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm2 = nn.GroupNorm(num_groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        if time_channels:
            projection = nn.Linear(4 * time_channels, out_channels)
            nn.init.zeros_(projection.weight)
            nn.init.zeros_(projection.bias)
            self.emb_layers = nn.Sequential(nn.SiLU(), projection)

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """[B*V, out_channels, h, w] of x [B*V, in_channels, h, w] and the time's embedding [B*V or 1, W]."""
        hidden = self.conv1(functional.silu(self.norm1(x)))
        if time is not None:
            hidden = hidden + self.emb_layers(time)[:, :, None, None]
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        total: Tensor = (hidden + self.shortcut(x)) * _SKIP_SCALE
        return total


class SelfAttention(nn.Module):
    """Multi-head self-attention of tokens.

    Args:
        channels: width of the tokens.
        num_heads: heads.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T, C] of tokens [B, T, C]."""
        batch, count, channels = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.num_heads, channels // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        projected: Tensor = self.proj(attend(query, key, value).transpose(1, 2).reshape(batch, count, channels))
        return projected


class MultiviewAttention(nn.Module):
    """Self-attention over the tokens of all views of an object.

    Args:
        channels: width.
        num_groups: groups of the norm.
        num_heads: heads.
    """

    def __init__(self, channels: int, num_groups: int, num_heads: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, channels)
        self.attn = SelfAttention(channels, num_heads)

    def forward(self, x: Tensor, views: int) -> Tensor:
        """[B*V, C, h, w] of x [B*V, C, h, w] with `views` = V."""
        images, channels, height, width = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(images // views, views * height * width, channels)
        mixed = self.attn(tokens).reshape(images, height, width, channels).permute(0, 3, 1, 2)
        # A sum lies in memory as its first term does: x's order, channel by channel, is what a CPU's norms are fast at,
        # their backward pass above all. What is not trained keeps the order, and so the rounding, that it always had.
        total: Tensor = (x + mixed if self.training else mixed + x) * _SKIP_SCALE
        return total


class DownLevel(nn.Module):
    """Residual blocks of one resolution, each followed by attention where wanted, then halving.

    Args:
        in_channels: width of each block's input.
        out_channels: width of the level.
        attention: whether attention follows each block.
        halve: whether a strided convolution follows.
        num_groups: groups of the norms.
        num_heads: heads of the attentions.
        time_channels: sinusoidal channels of the time input; 0 = no time input.
    """

    def __init__(
        self,
        in_channels: list[int],
        out_channels: int,
        attention: bool,
        halve: bool,
        num_groups: int,
        num_heads: int,
        time_channels: int,
    ) -> None:
        super().__init__()
        self.nets = nn.ModuleList(ResidualBlock(c, out_channels, num_groups, time_channels) for c in in_channels)
        self.attns = nn.ModuleList(
            MultiviewAttention(out_channels, num_groups, num_heads) for _ in (in_channels if attention else ())
        )
        self.downsample = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1) if halve else None

    def forward(self, x: Tensor, views: int, time: Tensor | None) -> list[Tensor]:
        """Every intermediate result, each one a skip connection; the last is the level's output."""
        results: list[Tensor] = []
        for i, net in enumerate(self.nets):
            x = net(x, time)
            if len(self.attns):
                x = self.attns[i](x, views)
            results.append(x)
        if self.downsample is not None:
            results.append(self.downsample(x))
        return results


class UpLevel(nn.Module):
    """Residual blocks of one resolution, each on a skip connection, with attention where wanted, then doubling.

    Args:
        in_channels: width of each block's input, skip connection included.
        out_channels: width of the level.
        attention: whether attention follows each block.
        double: whether nearest upsampling and a convolution follow.
        num_groups: groups of the norms.
        num_heads: heads of the attentions.
        time_channels: sinusoidal channels of the time input; 0 = no time input.
    """

    def __init__(
        self,
        in_channels: list[int],
        out_channels: int,
        attention: bool,
        double: bool,
        num_groups: int,
        num_heads: int,
        time_channels: int,
    ) -> None:
        super().__init__()
        self.nets = nn.ModuleList(ResidualBlock(c, out_channels, num_groups, time_channels) for c in in_channels)
        self.attns = nn.ModuleList(
            MultiviewAttention(out_channels, num_groups, num_heads) for _ in (in_channels if attention else ())
        )
        self.upsample = nn.Conv2d(out_channels, out_channels, 3, padding=1) if double else None

    def forward(self, x: Tensor, skips: list[Tensor], views: int, time: Tensor | None) -> Tensor:
        """The level's output of x and one skip connection for each block, the last one first."""
        for i, net in enumerate(self.nets):
            x = net(torch.cat([x, skips[-1 - i]], dim=1), time)
            if len(self.attns):
                x = self.attns[i](x, views)
        if self.upsample is not None:
            x = self.upsample(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution.

    Args:
        channels: width.
        attention: whether there is an attention.
        num_groups: groups of the norms.
        num_heads: heads of the attention.
        time_channels: sinusoidal channels of the time input; 0 = no time input.
    """

    def __init__(self, channels: int, attention: bool, num_groups: int, num_heads: int, time_channels: int) -> None:
        super().__init__()
        self.nets = nn.ModuleList(ResidualBlock(channels, channels, num_groups, time_channels) for _ in range(2))
        self.attns = nn.ModuleList(
            MultiviewAttention(channels, num_groups, num_heads) for _ in range(1 if attention else 0)
        )

    def forward(self, x: Tensor, views: int, time: Tensor | None) -> Tensor:
        """[B*V, C, h, w] of x [B*V, C, h, w]."""
        x = self.nets[0](x, time)
        for attention in self.attns:
            x = attention(x, views)
        result: Tensor = self.nets[1](x, time)
        return result


class GaussianUNet(nn.Module):
    """LGM's asymmetric U-Net: 9 channels in, 14 out, attention over all views.

    Args:
        down_channels: width of each level, finest first.
        down_attention: attention at these levels.
        mid_attention: attention in the middle.
        up_channels: width of each level, coarsest first; fewer levels than down = smaller output.
        up_attention: attention at these levels.
        layers_per_block: residual blocks of a down level (an up level has one more).
        num_groups: groups of the norms.
        num_heads: heads of the attentions.
        time_channels: sinusoidal channels of the time input; 0 = no time input.
        gradient_checkpointing: recompute the levels' activations in the backward pass.
    """

    def __init__(
        self,
        down_channels: tuple[int, ...],
        down_attention: tuple[bool, ...],
        mid_attention: bool,
        up_channels: tuple[int, ...],
        up_attention: tuple[bool, ...],
        layers_per_block: int,
        num_groups: int,
        num_heads: int,
        time_channels: int,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.layers_per_block = layers_per_block
        self.time_channels = time_channels
        shared = (num_groups, num_heads, time_channels)
        if time_channels:
            self.time_embed = nn.Sequential(
                nn.Linear(time_channels, 4 * time_channels), nn.SiLU(), nn.Linear(4 * time_channels, 4 * time_channels)
            )
        self.conv_in = nn.Conv2d(9, down_channels[0], kernel_size=3, padding=1)
        skip_widths = [down_channels[0]]
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(down_channels):
            halve = level < len(down_channels) - 1
            inputs = [skip_widths[-1], *[width] * (layers_per_block - 1)]
            self.down_blocks.append(DownLevel(inputs, width, down_attention[level], halve, *shared))
            skip_widths += [width] * (layers_per_block + halve)
        self.mid_block = Middle(down_channels[-1], mid_attention, *shared)
        width = down_channels[-1]
        self.up_blocks = nn.ModuleList()
        for level, out_width in enumerate(up_channels):
            inputs = [w + skip_widths.pop() for w in (width, *[out_width] * layers_per_block)]
            double = level < len(up_channels) - 1
            self.up_blocks.append(UpLevel(inputs, out_width, up_attention[level], double, *shared))
            width = out_width
        self.norm_out = nn.GroupNorm(num_groups, width)
        self.conv_out = nn.Conv2d(width, 14, kernel_size=3, padding=1)

    def forward(self, x: Tensor, views: int, time: Tensor | None) -> Tensor:
        """[B*V, 14, h, w] of x [B*V, 9, H, W] and the time [B*V] or [1] (without a time input: None)."""
        embedding = None if time is None else self.time_embed(sinusoids(time, self.time_channels).to(x.dtype))
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            results: list[Tensor] = self._runner(block)(x, views, embedding)
            skips += results
            x = results[-1]
        x = self._runner(self.mid_block)(x, views, embedding)
        for block in self.up_blocks:
            used = len(skips) - self.layers_per_block - 1
            x = self._runner(block)(x, skips[used:], views, embedding)
            skips = skips[:used]
        result: Tensor = self.conv_out(functional.silu(self.norm_out(x)))
        return result

    def _runner(self, block: nn.Module) -> Callable[..., Any]:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return partial(checkpoint, block, use_reentrant=False)
        return block


def sinusoids(time: Tensor, channels: int) -> Tensor:
    """[T, channels] cosines, then sines of times [T] at frequencies from 1 down towards 1e-4 (Vaswani et al. 2017)."""
    half = channels // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=time.device, dtype=torch.float32) / half)
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
