"""What came out of an object's rendering, looked at as a person would: is it there, and has it colours?"""

from collections.abc import Sequence

import torch

from ouroboros3d.renderers.rendering import Rendering

# Fewer than the first, or a smaller share of a view than the second, is a speck; the wires of a lamp cover more.
_FEW_PIXELS, _SMALL_SHARE = 9, 1e-3
_EXTREME = 2 / 255  # from 0 or 1, as far as JPEG and averages go


def doubt(views: Sequence[Rendering]) -> str:
    """Why nobody should train on an object before having looked at it; empty for no reason.

    Args:
        views: of the object, B = 1, straight colours.
    """
    most = max(int((one.alpha[0] > 0.5).sum(dim=(1, 2, 3)).max()) for one in views)
    total = views[0].alpha[0, 0].numel()
    if most < max(_FEW_PIXELS, _SMALL_SHARE * total):
        return f"a few pixels large: at most {most} of a view's {total}"
    colours = torch.cat([one.colour[0].movedim(1, 0)[:, one.alpha[0, :, 0] > 0.5] for one in views], dim=1)
    low, high = colours.amin(dim=1), colours.amax(dim=1)
    if bool(((low >= 1 - _EXTREME) | (high <= _EXTREME)).all()):
        red, green, blue = (high * 255).round().int().tolist()
        return f"all of one extreme colour, rgb({red}, {green}, {blue})"
    return ""
