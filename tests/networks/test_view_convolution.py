"""A convolution over the views alone is the three-dimensional one."""

import torch
from torch import nn

from ouroboros3d.networks.view_convolution import ViewConv, use_view_convolutions


def test_outputs_and_gradients_are_those_of_the_three_dimensional_convolution():
    torch.manual_seed(0)
    plain = nn.Conv3d(5, 7, (3, 1, 1), padding=(1, 0, 0)).double()
    ours = nn.Sequential(nn.Conv3d(5, 7, (3, 1, 1), padding=(1, 0, 0)).double())
    use_view_convolutions(ours)
    assert isinstance(ours[0], ViewConv)
    ours[0].load_state_dict(plain.state_dict())
    inputs = torch.randn(2, 5, 4, 3, 6, dtype=torch.float64)
    gradients = []
    for module in (plain, ours):
        given = inputs.clone().requires_grad_()
        module.zero_grad()
        output = module(given)
        (output * torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)).sum().backward()
        gradients.append([output, given.grad, *(parameter.grad for parameter in module.parameters())])
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)  # float64: the order of sums


def test_other_convolutions_stay():
    module = nn.Sequential(
        nn.Conv3d(2, 2, 3),
        nn.Conv3d(2, 2, (3, 1, 1), stride=2),
        nn.Conv2d(2, 2, 1),
        nn.Conv3d(2, 2, (3, 1, 1), groups=2),
    )
    names = list(module.state_dict())
    use_view_convolutions(module)
    assert not any(isinstance(part, ViewConv) for part in module)
    assert list(module.state_dict()) == names
