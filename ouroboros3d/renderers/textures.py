"""Textures of a mesh in one flat table of texels, and sampling it at any place of any of them.

Every texel is addressed by its own integer coordinates, so a sample never meets another texture, and wrap modes act on
integers (glTF 2.0, section 3.8.4). Colours are blended in linear light, as glTF asks; files hold sRGB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

WrapMode = Literal["repeat", "clamp", "mirror"]
_WRAP_MODES: tuple[WrapMode, ...] = ("repeat", "clamp", "mirror")


def srgb_to_linear(colour: Tensor) -> Tensor:
    """Decode sRGB to linear light (IEC 61966-2-1), both in [0, 1], any shape."""
    return torch.where(colour <= 0.04045, colour / 12.92, ((colour.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(colour: Tensor) -> Tensor:
    """Encode linear light as sRGB (IEC 61966-2-1), both in [0, 1], any shape."""
    return torch.where(colour <= 0.0031308, colour * 12.92, 1.055 * colour.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


@dataclass(frozen=True)
class TextureTable:
    """T textures end to end.

    Args:
        texels: [S, 4] uint8 RGBA, sRGB, row after row, texture after texture.
        first: [T] int64 index of each texture's first texel.
        size: [T, 2] int64 width and height.
        wrap: [T, 2] int64 index into repeat, clamp, mirror, horizontally and vertically.
    """

    texels: Tensor
    first: Tensor
    size: Tensor
    wrap: Tensor

    @classmethod
    def build(
        cls, textures: Sequence[Tensor], wraps: Sequence[tuple[WrapMode, WrapMode]], device: torch.device
    ) -> "TextureTable":
        """Lay textures ([H, W, 4] uint8 each) end to end, with their horizontal and vertical wrap modes."""
        size = torch.tensor([[t.shape[1], t.shape[0]] for t in textures], dtype=torch.int64, device=device)
        counts = size.prod(dim=1)
        return cls(
            texels=torch.cat([t.reshape(-1, 4) for t in textures]).to(device),
            first=counts.cumsum(0) - counts,
            size=size,
            wrap=torch.tensor([[_WRAP_MODES.index(w) for w in pair] for pair in wraps], device=device),
        )

    def sample(self, texture: Tensor, uv: Tensor) -> Tensor:
        """Bilinear samples.

        Args:
            texture: [M] int64 which texture.
            uv: [M, 2] glTF texture coordinates: (0, 0) is the corner of the first texel of the first row.

        Returns:
            [M, 4] linear RGB and alpha in [0, 1].
        """
        size, wrap, first = self.size[texture], self.wrap[texture], self.first[texture]
        position = uv * size - 0.5
        corner = position.floor()
        weight = position - corner
        corner = corner.long()
        to_linear = torch.cat([srgb_to_linear(torch.arange(256, device=uv.device) / 255)])
        total = torch.zeros(uv.shape[0], 4, device=uv.device)
        for dx in (0, 1):
            for dy in (0, 1):
                tap = _wrapped(corner + torch.tensor([dx, dy], device=uv.device), size, wrap)
                texel = self.texels[first + tap[:, 1] * size[:, 0] + tap[:, 0]]
                linear = torch.cat([to_linear[texel[:, :3].long()], texel[:, 3:] / 255], dim=1)
                share = (weight[:, 0] if dx else 1 - weight[:, 0]) * (weight[:, 1] if dy else 1 - weight[:, 1])
                total += share[:, None] * linear
        return total


def _wrapped(tap: Tensor, size: Tensor, wrap: Tensor) -> Tensor:
    """Texel coordinates [M, 2] inside [0, size), by each axis' wrap mode."""
    repeated = tap.remainder(size)
    clamped = tap.clamp(min=0).minimum(size - 1)
    period = tap.remainder(2 * size)
    mirrored = torch.where(period < size, period, 2 * size - 1 - period)
    return torch.where(wrap == 0, repeated, torch.where(wrap == 1, clamped, mirrored))
