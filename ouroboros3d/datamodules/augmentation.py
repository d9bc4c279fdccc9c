"""Other objects out of those there are: mirrored ones, and ones in other colours, exactly as they would be seen."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras


@dataclass(frozen=True)
class ObjectAugmentation:
    """How often training sees an object mirrored or in other colours; all its views alike.

    Args:
        mirror: probability of the mirrored object.
        recolour: probability of other colours: the channels permuted, and each raised to a power of its own.
        gamma: largest factor on, and divisor of, the powers, 1 or more.
    """

    mirror: float = 0.0
    recolour: float = 0.0
    gamma: float = 1.6

    def __post_init__(self) -> None:
        """Check the ranges once.

        Raises:
            ValueError: no probability, or a factor below 1.
        """
        for name in ("mirror", "recolour"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation.{name}: expected a probability in [0, 1], got {getattr(self, name):g}.")
        if not 1 <= self.gamma < float("inf"):
            raise ValueError(f"augmentation.gamma: expected a finite factor of at least 1, got {self.gamma:g}.")

    def apply(
        self, rgba: Tensor, cameras: Cameras, num_views: int, generator: torch.Generator
    ) -> tuple[Tensor, Cameras]:
        """Views [F, H, W, 4] uint8 and cameras [F] of the object that is drawn.

        Args:
            rgba: [F, H, W, 4] uint8, straight alpha; the first `num_views` go around the object.
            cameras: [F] in the object's frame.
            num_views: V, at most F.
            generator: of the draws, whose number does not depend on what they say.
        """
        chances = torch.rand(2, generator=generator)
        order, powers = torch.randperm(3, generator=generator), torch.rand(3, generator=generator) * 2 - 1
        if chances[0] < self.mirror:
            rgba, cameras = mirrored(rgba, cameras, num_views)
        if chances[1] < self.recolour:
            levels = (torch.arange(256) / 255)[:, None] ** (self.gamma**powers)  # [256, 3]
            table = (levels * 255).round().to(torch.uint8)
            colours = [table[rgba[..., int(source)].long(), channel] for channel, source in enumerate(order)]
            rgba = torch.stack([*colours, rgba[..., 3]], dim=-1)
        return rgba, cameras


def mirrored(rgba: Tensor, cameras: Cameras, num_views: int) -> tuple[Tensor, Cameras]:
    """The views of the object mirrored at its plane x = 0, by cameras mirrored with it.

    A mirrored camera at a mirrored place sees the mirrored picture, and an orbit is run through backwards: the views
    after the first change their order, so that azimuth grows as before.

    Args:
        rgba: [F, H, W, 4].
        cameras: [F] in the object's frame.
        num_views: how many of the first views are an orbit.
    """
    order = [0, *range(num_views - 1, 0, -1), *range(num_views, rgba.shape[0])]
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0])).to(cameras.c2w_opencv)
    # The camera's own x axis is turned too, so that it stays right-handed; its picture is flipped instead.
    c2w = mirror @ cameras.c2w_opencv[order] @ mirror
    intrinsics = cameras.intrinsics_norm[order].clone()
    intrinsics[:, 0, 1] *= -1  # of a camera with skew
    intrinsics[:, 0, 2] = 1 - intrinsics[:, 0, 2]
    return rgba[order].flip(2), Cameras(c2w, intrinsics)
