"""Scenes of a viewer's page: one object's views, cameras and Gaussians over the sampler's steps, as compact JSON."""

import base64
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.gaussians import Gaussians

Scene = dict[str, Any]
"""What `scene` makes and viewer.js reads."""

MOST_GAUSSIANS = 300_000
"""Of all scenes and steps of a page together: 23 bytes each, so that no page is larger than 8 MB."""

_MIN_OPACITY = 0.005  # as in a ply
_LARGEST_VIEW = 192  # pixels; more would be megabytes of pictures over all steps


@dataclass(frozen=True)
class Frame:
    """What there is at one of the sampler's steps, or at the end.

    Args:
        views_01: [V, 3, H, W] estimated views.
        gaussians: [1, N] their reconstruction in the object's frame, as it is exported.
        step: of the sampler, from 0; None for the result.
        sigma: the noise level that was estimated at; None for the result.
    """

    views_01: Tensor
    gaussians: Gaussians
    step: int | None = None
    sigma: float | None = None


def scene(name: str, cameras: Cameras, frames: Sequence[Frame], truth_01: Tensor | None = None) -> Scene:
    """A scene as JSON; pictures are data URLs, Gaussians base64, see `_packed`.

    Args:
        name: what the page calls it, such as the variant's.
        cameras: [1, V] of the views in the object's frame; the first is the input's.
        frames: the steps that are kept, and the result last.
        truth_01: [V, 3, H, W] what the views should be, or [1, 3, H, W], the input alone; None where it is not known.
    """
    poses = cameras.c2w_opencv[0, :, :3, :4].transpose(-1, -2).tolist()  # rows right, down, forward, centre
    focal = cameras.intrinsics_norm[0, :, 0, 0].tolist()
    height, width = frames[-1].views_01.shape[-2:]
    return {
        "name": name,
        "cameras": [
            {"c2w": _rounded(pose), "focal": round(f, 6), "aspect": width / height}
            for pose, f in zip(poses, focal, strict=True)
        ],
        "truth": None if truth_01 is None else {"views": len(truth_01), "picture": _strip(truth_01)},
        "frames": [
            {"step": frame.step, "sigma": frame.sigma, "views": _strip(frame.views_01), **_packed(frame.gaussians)}
            for frame in frames
        ],
    }


def thinned(scenes: Sequence[Scene], most: int = MOST_GAUSSIANS) -> list[Scene]:
    """Scenes with fewer steps, evenly spread, where all their Gaussians together are too many; each keeps its result.

    Args:
        scenes: of one page.
        most: Gaussians of the page.
    """
    share = most // len(scenes)
    thin = []
    for one in scenes:
        frames = one["frames"]
        largest = max([frame["count"] for frame in frames] + [1])
        kept = spread(len(frames) - 1, max(0, share // largest - 1))
        thin.append({**one, "frames": [*(frames[index] for index in kept), frames[-1]]})
    return thin


def spread(count: int, most: int) -> list[int]:
    """At most so many of the indices 0 to count - 1, the first among them, evenly spread."""
    kept = min(count, most)
    return [index * count // kept for index in range(kept)]


def page_of_scenes(scenes: Sequence[Scene]) -> str:
    """The element of a page that holds the scenes."""
    text = json.dumps({"scenes": list(scenes)}, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="scenes">{text}</script>'


def read_scenes(path: Path) -> list[Scene]:
    """The scenes of a page that this package wrote.

    Args:
        path: of the page.

    Raises:
        ValueError: a damaged page, or one of another kind.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    found = re.search(r'<script type="application/json" id="scenes">(.*?)</script>', text, re.DOTALL)
    try:
        scenes: list[Scene] = json.loads(found[1])["scenes"] if found else []
        complete = bool(scenes) and all(one["frames"] and one["cameras"] and "truth" in one for one in scenes)
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a viewer's page, got a damaged file ({error}); make it again.") from error
    if not complete:
        raise ValueError(f"{path}: expected a viewer's page with scenes, got none; make it again.")
    return scenes


def _packed(gaussians: Gaussians) -> dict[str, Any]:
    """Gaussians [1, N] in 17 bytes each, one array after the other, and the ranges of their values.

    Rotations are 32 bits: two say which component of the quaternion is largest, and thrice ten are the others over
    [-sqrt(1/2), sqrt(1/2)], in their order. Means are 16 bits an axis over the object's own range, logarithms of
    scales 8 bits over theirs, colours and opacities 8 bits over [0, 1].
    """
    kept = gaussians.detach()[0, gaussians.opacities[0, :, 0] >= _MIN_OPACITY].to("cpu", torch.float64)
    count = kept.means.shape[0]
    if not count:
        return {"count": 0, "low": [0, 0, 0], "high": [1, 1, 1], "log_scales": [0, 1], "data": ""}
    low, high = kept.means.amin(0), kept.means.amax(0)
    scales = kept.scales.clamp_min(1e-6).log()
    smallest, largest = scales.min().item(), scales.max().item()
    quaternions = torch.nn.functional.normalize(kept.quaternions, dim=-1)
    left = quaternions.abs().argmax(-1, keepdim=True)
    quaternions = quaternions * torch.where(quaternions.gather(-1, left) < 0, -1.0, 1.0)
    others = quaternions[torch.arange(4) != left].reshape(count, 3)
    words = np.zeros(count, "<u4")
    for word in (left[:, 0], *_levels(others * math.sqrt(0.5) + 0.5, 1023).unbind(-1)):
        words = words << np.uint32(10) | word.numpy().astype("<u4")
    arrays = (
        words,
        _levels((kept.means - low) / (high - low).clamp_min(1e-9), 65535).numpy().astype("<u2"),
        _levels((scales - smallest) / max(largest - smallest, 1e-9), 255).numpy().astype("u1"),
        _levels(torch.cat([kept.colours, kept.opacities], dim=-1), 255).numpy().astype("u1"),
    )
    return {
        "count": count,
        "low": low.tolist(),
        "high": high.tolist(),
        "log_scales": [smallest, largest],
        "data": base64.b64encode(b"".join(array.tobytes() for array in arrays)).decode(),
    }


def _levels(share: Tensor, most: int) -> Tensor:
    """Whole numbers from 0 to `most` of shares in [0, 1]."""
    return (share.clamp(0, 1) * most).round().long()


def _strip(views_01: Tensor) -> str:
    """Views [V, 3, H, W] side by side as a data URL: small ones without loss, large ones smaller."""
    pixels = (torch.cat(list(views_01), dim=-1).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels)
    if picture.height > _LARGEST_VIEW:
        picture = picture.resize((picture.width * _LARGEST_VIEW // picture.height, _LARGEST_VIEW), Image.Resampling.BOX)
    content = io.BytesIO()
    picture.save(content, format="WEBP", lossless=picture.height <= 64, quality=80, method=4)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def _rounded(rows: list[list[float]]) -> list[list[float]]:
    return [[round(value, 6) for value in row] for row in rows]
