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
        texels: [S, 4] float16 linear RGB times alpha, and alpha; row after row, level after level, texture after
            texture. Half precision is within a tenth of a step of the 8 bits that files hold.
        first: [T, L] int64 index of the first texel of each level; the last level repeats.
        size: [T, 2] float32 width and height of level 0; level l has ceil(size / 2^l).
        wrap: [T, 2] int64 index into repeat, clamp, mirror, horizontally and vertically.
    """

    texels: Tensor
    first: Tensor
    size: Tensor
    wrap: Tensor

    @classmethod
    def build(cls, textures: Sequence[Tensor], wraps: Sequence[tuple[WrapMode, WrapMode]]) -> "TextureTable":
        """Lay one or more textures ([H, W, 4] uint8 each) end to end; wraps are (horizontal, vertical)."""
        device = textures[0].device
        to_linear = srgb_to_linear(torch.arange(256, device=device) / 255)
        texels, first, position = [], [], 0
        for texture in textures:
            alpha = texture[..., 3:] / 255
            level = torch.cat([to_linear[texture[..., :3].int()] * alpha, alpha], dim=-1)
            starts = []
            while True:
                starts.append(position)
                texels.append(level.reshape(-1, 4).half())
                position += len(texels[-1])
                if max(level.shape[:2]) == 1:
                    break
                # Half the size, rounded up: texel i is the mean of texels 2 i and 2 i + 1.
                level = F.avg_pool2d(level.permute(2, 0, 1), 2, ceil_mode=True).permute(1, 2, 0)
            first.append(starts + [starts[-1]] * (_LEVELS - len(starts)))
        return cls(
            texels=torch.cat(texels),
            first=torch.tensor(first, device=device),
            size=torch.tensor([[t.shape[1], t.shape[0]] for t in textures], device=device).float(),
            wrap=torch.tensor([[_WRAP_MODES.index(w) for w in pair] for pair in wraps], device=device),
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
        after = position - corner
        before = 1 - after
        sums = torch.zeros(len(uv), 4, device=uv.device)
        for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
            share = (after if x else before)[:, :1] * (after if y else before)[:, 1:]
            sums += share * self._texel(corner + torch.tensor([x, y], device=uv.device), place)
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
            sums += self._texel((one * place.size).floor(), place)
        return _straight(sums / uv.shape[1])

    def _place(self, texture: Tensor, bounds: Tensor, level: Tensor | None = None) -> "_Place":
        size = self.size.index_select(0, texture)
        # A bound on a texel's border, up to rounding, leaves out the texel beyond.
        low = (bounds[:, :2] * size + 1e-3).floor()
        high = torch.maximum((bounds[:, 2:] * size - 1e-3).ceil() - 1, low)
        if level is None:
            level = torch.zeros_like(texture)
        first = self.first.flatten().index_select(0, texture * _LEVELS + level)
        shrink = 0.5**level
        width = (size[:, 0] * shrink).ceil().long()
        return _Place(size, self.wrap.index_select(0, texture), low, high, first, shrink[:, None], width)

    def _texel(self, texel: Tensor, place: "_Place") -> Tensor:
        """Linear colour times alpha, and alpha [M, 4], of texels [M, 2] counted at full size, also outside."""
        wrapped = _wrapped(texel.maximum(place.low).minimum(place.high), place.size, place.wrap)
        column, row = (wrapped * place.shrink).long().unbind(dim=1)
        return self.texels.index_select(0, place.first + row * place.width + column).float()


class _Place(NamedTuple):
    """Where M samples look: all per row; `first`, `shrink` and `width` are those of the copy they read."""

    size: Tensor
    wrap: Tensor
    low: Tensor
    high: Tensor
    first: Tensor
    shrink: Tensor
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


def _wrapped(texel: Tensor, size: Tensor, wrap: Tensor) -> Tensor:
    """Texel coordinates [M, 2] inside [0, size), by each axis' wrap mode; float32 holds whole numbers up to 2^24."""
    repeated = (texel - (texel / size).floor() * size).clamp(min=0).minimum(size - 1)  # farther out it may round
    if not bool(wrap.any()):
        return repeated
    clamped = texel.clamp(min=0).minimum(size - 1)
    period = (texel - (texel / (2 * size)).floor() * 2 * size).clamp(min=0).minimum(2 * size - 1)
    mirrored = torch.where(period < size, period, 2 * size - 1 - period)
    return torch.where(wrap == 0, repeated, torch.where(wrap == 1, clamped, mirrored))
