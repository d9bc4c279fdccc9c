"""Attention is the same sums in every form, and bfloat16 on a CPU takes the plain one."""

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor
from torch.nn import functional

from ouroboros3d.networks.attention import Attending, attend, bfloat16_on_cpu
from ouroboros3d.networks.gaussian_unet import MultiviewAttention


def values_and_gradients(of: object, *inputs: Tensor) -> list[Tensor]:
    given = [tensor.clone().requires_grad_() for tensor in inputs]
    output = of(*given)  # type: ignore[operator]
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)
    gradients = torch.autograd.grad((output.double() * weights).sum(), given, materialize_grads=True)
    return [output, *gradients]


def test_plain_products_are_attention():
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, count, 8, dtype=torch.float64) for count in (5, 7, 7)]
    exact = values_and_gradients(functional.scaled_dot_product_attention, *inputs)
    in_bfloat16 = [tensor.bfloat16() for tensor in inputs]
    assert bfloat16_on_cpu(in_bfloat16[0])
    found = values_and_gradients(attend, *in_bfloat16)
    fused = values_and_gradients(functional.scaled_dot_product_attention, *in_bfloat16)
    for name, right, plain, kernel in zip(("output", "query", "key", "value"), exact, found, fused, strict=True):
        error, of_kernel = ((other.double() - right).abs().max() / right.abs().max() for other in (plain, kernel))
        # Each rounds to 8 bits on its way, at other places: worst seen 0.010 here, 0.007 in the kernel.
        assert error < 0.03, name
        assert of_kernel < 0.03, name


def test_the_form_follows_what_is_computed_in():
    tensor = torch.zeros(1, 1, 2, 4)
    assert not bfloat16_on_cpu(tensor)
    with torch.autocast("cpu", torch.bfloat16):
        assert bfloat16_on_cpu(tensor)
        assert not bfloat16_on_cpu(tensor.to("meta"))
        with torch.autocast("cpu", enabled=False):
            assert not bfloat16_on_cpu(tensor)
    with torch.autocast("cpu", torch.float16):
        assert not bfloat16_on_cpu(tensor)
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 1, 6, 8)
    assert torch.equal(attend(query, key, value), functional.scaled_dot_product_attention(query, key, value))


@pytest.mark.parametrize("context", [None, 1, 3])
def test_the_processor_computes_what_diffusers_own_does(context):
    torch.manual_seed(0)
    layer = Attention(16, None if context is None else 12, heads=2, dim_head=8)
    tokens = torch.randn(4, 5, 16, dtype=torch.float64)
    given = [tokens] if context is None else [tokens, torch.randn(4, context, 12, dtype=torch.float64)]

    def run(processor: object, *inputs: Tensor) -> list[Tensor]:
        layer.set_processor(processor)
        found = values_and_gradients(layer, *inputs)
        weights = layer.to_v.weight
        return [*found, torch.autograd.grad(layer(*inputs).double().square().sum(), weights)[0]]

    layer.double()
    exact = run(AttnProcessor2_0(), *given)
    for one, other in zip(run(Attending(), *given), exact, strict=True):
        assert torch.equal(one, other)  # the very same call
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = run(Attending(), *(tensor.float() for tensor in given))
    for one, right in zip(rounded, exact, strict=True):
        # 8 bits; worst seen 0.013. Nothing but rounding depends on the tokens where one token is looked at.
        assert (one.double() - right).abs().max() <= 0.03 * right.abs().max() + 1e-12


def test_what_follows_an_attention_lies_in_memory_as_what_comes_before():
    layer, x = MultiviewAttention(32, 8, 2), torch.randn(8, 32, 4, 4)
    assert layer(x, views=4).is_contiguous()
