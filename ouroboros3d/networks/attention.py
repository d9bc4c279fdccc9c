"""Attention in the form that the device computes fastest, and which forms that concerns."""

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor
from torch.nn import functional


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(C)) value, [B, heads, T, C].

    By torch's fused kernel, but for bfloat16 on a CPU: there the kernel and its backward pass take three times as long
    as plain products of matrices.

    Args:
        query: [B, heads, T, C].
        key: [B, heads, S, C].
        value: [B, heads, S, C].
    """
    if not bfloat16_on_cpu(query):
        return functional.scaled_dot_product_attention(query, key, value)
    weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    mixed: Tensor = weights.softmax(dim=-1) @ value
    return mixed


class Attending(AttnProcessor2_0):
    """diffusers' processor of the attentions of Stable Video Diffusion's U-Net, by `attend` in bfloat16 on a CPU."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """[B, T, C] of tokens [B, T, C] that look at a context [B, S, C'], or at themselves without one."""
        if attention_mask is not None or not bfloat16_on_cpu(hidden_states):
            mixed: Tensor = super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
            return mixed
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if context.shape[1] == 1:  # the weight of a single token is 1, whatever is asked for
            mixed = attn.to_v(context)
        else:
            heads = [
                layer(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                for layer, tokens in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
            ]
            mixed = attend(*heads).transpose(1, 2).flatten(2)
        for layer in attn.to_out:
            mixed = layer(mixed)
        return mixed.expand(-1, hidden_states.shape[1], -1)


def bfloat16_on_cpu(tensor: Tensor) -> bool:
    """Whether layers compute in bfloat16 on a CPU, for which torch has other fast forms than for anything else."""
    if tensor.device.type != "cpu":
        return False
    computed_in = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else tensor.dtype
    return computed_in == torch.bfloat16
