"""The Triton kernels against the torch backend: a test starts this with TRITON_INTERPRET=1 in the environment."""

import torch

from ouroboros3d.cameras import Cameras
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.renderers.compositing import composite_tiles
from ouroboros3d.renderers.gaussian_tiles import bin_splats
from ouroboros3d.renderers.gaussians_triton import composite_tiles_triton
from ouroboros3d.renderers.projection import project


def main() -> None:
    torch.manual_seed(0)
    # Two tiles with full pixels, several blocks of splats, and weights that are clamped and dropped.
    gaussians = Gaussians(
        torch.randn(1, 60, 3) * 0.2,
        torch.rand(1, 60, 3) * 0.2,
        torch.nn.functional.normalize(torch.randn(1, 60, 4), dim=-1),
        torch.tensor([0.02, 0.5, 1.0, 0.9]).repeat(15)[None, :, None],
        torch.rand(1, 60, 3),
    )
    splats = project(gaussians, Cameras.orbit([[20.0]], 10.0, 1.5, 45.0, 12 / 8), 8, 12, low_pass=0.3, near=0.01)
    lists = bin_splats(splats, 8, 12, 8)
    assert lists.length.min() > 16
    weights = torch.randn(lists.tile.shape[0], 8, 64)
    results = []
    for composite in (composite_tiles, composite_tiles_triton):
        leaves = [value.flatten(1).detach().clone().requires_grad_() for value in (splats.geometry, splats.features)]
        sums = composite(*leaves, lists, 8)
        (sums * weights).sum().backward()
        results.append([sums.detach(), *leaves[0].grad, *leaves[1].grad])
    assert results[0][0][:, 7].max() > 0.999
    for found, expected in zip(*results, strict=True):
        # Another order of summation in float32; worst seen 3e-6.
        error = (found - expected).abs().max() / expected.abs().max()
        assert error < 2e-5, error


main()
