"""Textures of a mesh in one flat table of texels, and sampling it at any place of any of them.

Every texel is addressed by its own integer coordinates, so a sample never meets another texture, and wrap modes act on
integers (glTF 2.0, section 3.8.4). Colours are blended in linear light, as glTF asks; files hold sRGB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

WrapMode = Literal["repeat", "clamp", "mirror"]
_WRAP_MODES: tuple[WrapMode, ...] = ("repeat", "clamp", "mirror")
_LEVELS = 14  # halvings of the largest image anyone may load, and one spare


def srgb_to_linear(colour: Tensor) -> Tensor:
    """Decode sRGB to linear light (IEC 61966-2-1), both in [0, 1], any shape."""
    return torch.where(colour <= 0.04045, colour / 12.92, ((colour.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(colour: Tensor) -> Tensor:
    """Encode linear light as sRGB (IEC 61966-2-1), both in [0, 1], any shape."""
    return torch.where(colour <= 0.0031308, colour * 12.92, 1.055 * colour.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


@dataclass(frozen=True)
class TextureTable:
    """T textures end to end, each followed by its halved copies.

    Args:
        texels: [S, 4] uint8 RGBA, sRGB, row after row, level after level, texture after texture.
        first: [T, L] int64 index of the first texel of each level; the last level repeats.
        size: [T, 2] int64 width and height of level 0; level l has ceil(size / 2^l).
        wrap: [T, 2] int64 index into repeat, clamp, mirror, horizontally and vertically.
        to_linear: [256] float32 linear light of each byte.
    """

    texels: Tensor
    first: Tensor
    size: Tensor
    wrap: Tensor
    to_linear: Tensor

    @classmethod
    def build(cls, textures: Sequence[Tensor], wraps: Sequence[tuple[WrapMode, WrapMode]]) -> "TextureTable":
        """Lay one or more textures ([H, W, 4] uint8 each) end to end; wraps are (horizontal, vertical)."""
        device = textures[0].device
        to_linear = srgb_to_linear(torch.arange(256, device=device) / 255)
        texels, first, position = [], [], 0
        for texture in textures:
            starts = []
            level = texture
            while True:
                starts.append(position)
                texels.append(level.reshape(-1, 4))
                position += level.shape[0] * level.shape[1]
                if max(level.shape[:2]) == 1:
                    break
                level = _halved(level, to_linear)
            first.append(starts + [starts[-1]] * (_LEVELS - len(starts)))
        return cls(
            texels=torch.cat(texels),
            first=torch.tensor(first, device=device),
            size=torch.tensor([[t.shape[1], t.shape[0]] for t in textures], device=device),
            wrap=torch.tensor([[_WRAP_MODES.index(w) for w in pair] for pair in wraps], device=device),
            to_linear=to_linear,
        )

    def bilinear(self, texture: Tensor, uv: Tensor, bounds: Tensor) -> Tensor:
        """Samples between the four nearest texels.

        Args:
            texture: [M] int64 which texture.
            uv: [M, 2] glTF texture coordinates: (0, 0) is the corner of the first texel of the first row.
            bounds: [M, 4] lowest u, v and highest u, v of the texture's part that the sample belongs to: texels
                beyond it are replaced by the nearest within.

        Returns:
            [M, 4] linear RGB, weighted by alpha, and alpha, in [0, 1].
        """
        place = self._place(texture, bounds)
        position = uv * place.size - 0.5
        corner = position.floor()
        fraction = position - corner
        corner = corner.long()
        sums = torch.zeros(len(uv), 4, device=uv.device)
        for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
            share = (fraction[:, 0] if x else 1 - fraction[:, 0]) * (fraction[:, 1] if y else 1 - fraction[:, 1])
            sums += share[:, None] * self._premultiplied(corner + torch.tensor([x, y], device=uv.device), place)
        return _straight(sums)

    def mean(self, texture: Tensor, uv: Tensor, bounds: Tensor, level: Tensor) -> Tensor:
        """Mean of the texels nearest to several places, in halved copies of the textures.

        Args:
            texture: [M] int64 which texture.
            uv: [M, S, 2] places.
            bounds: [M, 4] as for `bilinear`.
            level: [M] int64 how often halved.

        Returns:
            [M, 4] linear RGB, weighted by alpha, and alpha, in [0, 1].
        """
        place = self._place(texture, bounds, level)
        sums = torch.zeros(len(uv), 4, device=uv.device)
        for one in uv.unbind(dim=1):
            sums += self._premultiplied((one * place.size).floor().long(), place)
        return _straight(sums / uv.shape[1])

    def _place(self, texture: Tensor, bounds: Tensor, level: Tensor | None = None) -> "_Place":
        size, wrap = self.size.index_select(0, texture), self.wrap.index_select(0, texture)
        # A bound on a texel's border, up to rounding, leaves out the texel beyond.
        low = (bounds[:, :2] * size + 1e-3).floor().long()
        high = torch.maximum((bounds[:, 2:] * size - 1e-3).ceil().long() - 1, low)
        if level is None:
            level = torch.zeros_like(texture)
        first = self.first.flatten().index_select(0, texture * _LEVELS + level)
        return _Place(size, wrap, low, high, level, first, ((size[:, 0] - 1) >> level) + 1)

    def _premultiplied(self, texel: Tensor, place: "_Place") -> Tensor:
        """Linear colour times alpha, and alpha [M, 4], of texels [M, 2] counted at full size, also outside."""
        texel = _wrapped(texel.maximum(place.low).minimum(place.high), place.size, place.wrap) >> place.level[:, None]
        rgba = self.texels.index_select(0, place.first + texel[:, 1] * place.width + texel[:, 0])
        linear = self.to_linear.index_select(0, rgba[:, :3].flatten().int()).reshape(-1, 3)
        alpha = rgba[:, 3:] / 255
        return torch.cat([linear * alpha, alpha], dim=1)


class _Place(NamedTuple):
    """Where M samples look: all per row, `level` and `width` of the copy they read."""

    size: Tensor
    wrap: Tensor
    low: Tensor
    high: Tensor
    level: Tensor
    first: Tensor
    width: Tensor


def uv_bounds(uv: Tensor, texture: Tensor) -> Tensor:
    """Boxes of texture islands: faces that share a texture and a corner's coordinates belong together.

    Args:
        uv: [F, 3, 2] float32.
        texture: [F] int64 which texture each face wears.

    Returns:
        [F, 4] lowest u, v and highest u, v of each face's island.
    """
    # The two coordinates' bits as one number, -0 made 0, then numbered together with the texture.
    bits = (uv + 0.0).contiguous().view(torch.int32).long()
    place = ((bits[..., 0] << 32) ^ (bits[..., 1] & 0xFFFFFFFF)).unique(return_inverse=True)[1]
    corner = (place * (int(texture.max()) + 1) + texture[:, None]).unique(return_inverse=True)[1]
    label = torch.arange(int(corner.max()) + 1, device=uv.device)
    while True:  # every round, each corner takes the smallest label of its faces, and that label's own label
        smallest = label[corner].amin(dim=1)
        updated = label.scatter_reduce(0, corner.flatten(), smallest.repeat_interleave(3), "amin")
        updated = updated[updated]
        if torch.equal(updated, label):
            break
        label = updated
    island = label[corner[:, 0]]
    each = island[:, None].expand(-1, 2)
    low = torch.full((len(label), 2), torch.inf, device=uv.device).scatter_reduce(0, each, uv.amin(dim=1), "amin")
    high = torch.full((len(label), 2), -torch.inf, device=uv.device).scatter_reduce(0, each, uv.amax(dim=1), "amax")
    return torch.cat([low, high], dim=1)[island]


def _straight(premultiplied: Tensor) -> Tensor:
    alpha = premultiplied[:, 3:]
    return torch.cat([premultiplied[:, :3] / alpha.clamp(min=1e-6), alpha], dim=1)


def _halved(texture: Tensor, to_linear: Tensor) -> Tensor:
    """Half the size, rounded up: texel i is the alpha-weighted mean, in linear light, of texels 2i and 2i + 1."""
    alpha = texture[..., 3:] / 255
    linear = to_linear[texture[..., :3].long()]
    planes = torch.cat([linear * alpha, alpha, linear], dim=-1).permute(2, 0, 1)[None]
    pooled = F.avg_pool2d(planes, 2, ceil_mode=True)[0].permute(1, 2, 0)
    colour = torch.where(pooled[..., 3:4] > 0, pooled[..., :3] / pooled[..., 3:4].clamp(min=1e-6), pooled[..., 4:])
    rgba = torch.cat([linear_to_srgb(colour), pooled[..., 3:4]], dim=-1)
    return (rgba * 255).round().clamp(0, 255).to(torch.uint8)


def _wrapped(texel: Tensor, size: Tensor, wrap: Tensor) -> Tensor:
    """Texel coordinates [M, 2] inside [0, size), by each axis' wrap mode."""
    repeated = texel.remainder(size)
    if not bool(wrap.any()):
        return repeated
    clamped = texel.clamp(min=0).minimum(size - 1)
    period = texel.remainder(2 * size)
    mirrored = torch.where(period < size, period, 2 * size - 1 - period)
    return torch.where(wrap == 0, repeated, torch.where(wrap == 1, clamped, mirrored))
