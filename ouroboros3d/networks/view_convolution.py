"""Convolutions over the view axis alone, computed as two-dimensional ones, which a CPU has fast code for."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class ViewConv(nn.Conv3d):
    """A convolution of kernel [k, 1, 1] over [B, C, V, h, w], as a convolution of kernel [k, 1] over [B, C, V, h * w].

    The same sums with the same weights under the same name. On a CPU torch computes the three-dimensional one without
    oneDNN, and without bfloat16's instructions; elsewhere, and where it is compiled, it stays as it is.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[B, C', V, h, w] of [B, C, V, h, w]."""
        if input.device.type != "cpu" or torch.compiler.is_compiling():  # torch 2.11's inductor fails at the flat one
            return super().forward(input)
        batch, channels, views, height, width = input.shape
        flat = input.reshape(batch, channels, views, height * width)
        assert not isinstance(self.padding, str)
        mixed = functional.conv2d(flat, self.weight[..., 0], self.bias, padding=(self.padding[0], 0))
        return mixed.view(batch, -1, views, height, width)


def use_view_convolutions(module: nn.Module) -> None:
    """Let every convolution of a module that sees the view axis alone be a `ViewConv`; its weights stay as they are."""
    for part in module.modules():
        if type(part) is nn.Conv3d and part.kernel_size[1:] == (1, 1) and part.stride == (1, 1, 1) and part.groups == 1:
            part.__class__ = ViewConv
