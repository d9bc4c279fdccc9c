"""Camera rays as a network's input: their harmonics, and the layers that bring these to a block's width."""

import torch
from torch import Tensor, nn

from ouroboros3d.cameras import Cameras, full_precision

_FREQUENCIES = 6
_RAY_CHANNELS = 6 * (2 * _FREQUENCIES + 1)  # sines, cosines and the Plücker coordinates themselves: 78


class PluckerEmbedding(nn.Module):
    """Linear-SiLU-Linear from the 78 harmonic channels of a ray to a block's width; zero at the start.

    Starting from zero leaves pretrained weights that have never seen cameras unchanged at step 0.

    Args:
        channels: width of the block that follows.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.Linear(channels, channels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.embed = nn.Sequential(nn.Linear(_RAY_CHANNELS, channels), nn.SiLU(), last)

    def forward(self, harmonics: Tensor) -> Tensor:
        """Features [B*V, C, h, w] (channels last in memory) of ray harmonics [B*V, h, w, 78]."""
        features: Tensor = self.embed(harmonics.to(next(self.parameters()).dtype))
        return features.permute(0, 3, 1, 2)


def harmonic_embedding(values: Tensor) -> Tensor:
    """[..., 13 * C] of values [..., C]: sines, then cosines at frequencies 2^0 to 2^5 (innermost), then the values."""
    frequencies = 2.0 ** torch.arange(_FREQUENCIES, device=values.device, dtype=values.dtype)
    angles = (values[..., None] * frequencies).flatten(-2)
    return torch.cat([angles.sin(), angles.cos(), values], dim=-1)


def published_plucker(cameras: Cameras, height: int, width: int) -> Tensor:
    """Plücker coordinates [..., 6, height, width] as the published denoiser computes them (Costwen/Ouroboros3D).

    Row and column are swapped, the pose is contracted transposed (which loses its translation), and the camera centre
    is subtracted nevertheless. Kept because the published weights were trained with these values.
    """
    pose, matrix = cameras.c2w_opencv, cameras.intrinsics_norm[..., None, None, :, :]
    rows = (torch.arange(height, device=pose.device, dtype=pose.dtype)[:, None] + 0.5) / height
    columns = (torch.arange(width, device=pose.device, dtype=pose.dtype) + 0.5) / width
    x = ((rows - matrix[..., 0, 2]) / matrix[..., 0, 0]).expand(*cameras.shape, height, width)
    y = ((columns - matrix[..., 1, 2]) / matrix[..., 1, 1]).expand(*cameras.shape, height, width)
    in_camera = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    with full_precision(pose):
        points = torch.einsum("...hwi,...ij->...hwj", in_camera, pose[..., :3, :3])
    origins = cameras.centres[..., None, None, :].expand_as(points)
    directions = nn.functional.normalize(points - origins, dim=-1)
    return torch.cat([torch.linalg.cross(origins, directions, dim=-1), directions], dim=-1).movedim(-1, -3)
