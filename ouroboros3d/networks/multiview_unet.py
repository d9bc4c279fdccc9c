"""The denoiser's network F: Stable Video Diffusion's U-Net over V views, with camera rays and 3D-aware feedback.

The U-Net is diffusers' own `UNetSpatioTemporalConditionModel`, unchanged; views take the place of video frames. Camera
rays are added before each of its blocks and feedback features before its downsamplers, through forward hooks.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from ouroboros3d.cameras import Cameras
from ouroboros3d.networks.attention import Attending
from ouroboros3d.networks.feedback import AdaptedFeedback, FeedbackAdapter
from ouroboros3d.networks.rays import PluckerEmbedding, harmonic_embedding, published_plucker
from ouroboros3d.networks.view_convolution import use_view_convolutions

DownBlockType = Literal["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"]
UpBlockType = Literal["CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"]
FeedbackMap = Literal["colour", "coordinates"]
Trainable = Literal["all", "temporal", "new", "adapters", "lora"]

# Layers over the view axis, by which SVD differs from the image model that it was made from.
_TEMPORAL = re.compile(r"\.(temporal_res_block|temporal_transformer_blocks|time_pos_embed|time_mixer)\.")
_LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]  # the projections of every attention


@dataclass
class _Extras:
    """What the hooks of one forward pass add to the U-Net."""

    cameras: Cameras  # [B, V]
    plucker_rays: Literal["correct", "published"]
    features: list[Tensor] | None  # per level [B*V, C_i, h_i, w_i]
    harmonics: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def rays(self, height: int, width: int) -> Tensor:
        """Harmonic embedding [B*V, height, width, 78] of the rays, computed once per resolution."""
        if (height, width) not in self.harmonics:
            cameras = self.cameras.reshape(-1)
            plucker = cameras.plucker if self.plucker_rays == "correct" else partial(published_plucker, cameras)
            self.harmonics[height, width] = harmonic_embedding(plucker(height, width).permute(0, 2, 3, 1))
        return self.harmonics[height, width]


class MultiviewUNet(nn.Module):
    """Stable Video Diffusion's U-Net with Plücker rays of the cameras and feedback from a 3D reconstruction.

    Sizes default to Stable Video Diffusion's. State-dict names are those of the published checkpoint: `unet.*`
    (diffusers' names), `{down,up}_plucker.i.embed.{0,2}`, `mid_plucker.embed.{0,2}`, and `cond_encoder.k.*` for the
    k-th of `feedback_maps` (diffusers' `FullAdapter` names; `pretrained/sources.py` maps the published ones).

    Args:
        in_channels: channels of the noisy latent and the conditioning latent together.
        out_channels: channels of a latent.
        block_out_channels: width of each level, multiples of 32.
        down_block_types: one per level, finest first; with or without attention.
        up_block_types: one per level, coarsest first.
        layers_per_block: residual blocks (and attentions) in each level.
        num_attention_heads: heads at each level.
        cross_attention_dim: length of the image embedding.
        transformer_layers_per_block: transformer layers in each attention.
        addition_time_embed_dim: sinusoidal channels of each of the three micro-conditioning ids.
        projection_class_embeddings_input_dim: three times `addition_time_embed_dim`.
        feedback_maps: kinds of feedback, each with its own adapter, in the order of the checkpoint; none = no adapters.
        feedback_downscale: pixels of a feedback map along one side of a latent pixel.
        plucker_rays: `published` reproduces the published code's rays, wrong by 15.7 degrees on average: row and column
            swapped, rotation contracted transposed, centre subtracted after the translation was lost.
        plucker_skips: `unchanged` adds rays to a block's input only; `published` adds them in place, so the skip
            connection saved just before holds them too.
        temporal_context: `published` reproduces diffusers 0.25, whose temporal cross-attention gives token row r the
            image embedding of sample r mod B.
        adapter_start: `zero_head` starts adapters at zero and adds nothing where there is no feedback; `published` has
            no zero head, and gives the adapters black maps where there is no feedback.
        feedback_to: where the adapters' features are added: `downsamplers`, as T2I adapters and the published network,
            so that a level's skip connection does not hold them; or `skips`, one layer earlier, so that it does.
        gradient_checkpointing: recompute the U-Net's activations in the backward pass.
        attention: `sdpa` is torch's fused attention, `eager` the same sums with the whole matrix of weights in memory.
        compile: backend of `torch.compile` for the residual blocks and transformers (`inductor` where there is a
            compiler), each compiled on its own so that names of weights and hooks stay; None = not compiled.
        trainable: what a training of this network changes: `all`; SVD's `temporal` layers; `lora`, low-rank additions
            (Hu et al. 2021) to the attentions' projections; or none of SVD but what is `new` here. Rays and adapters,
            the new parts, are trained with each of these; with `adapters` those of feedback alone (3D-Adapter, Chen et
            al. 2024).
        lora_rank: of the additions.
    """

    def __init__(
        self,
        in_channels: int = 8,
        out_channels: int = 4,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        down_block_types: tuple[DownBlockType, ...] = (
            "CrossAttnDownBlockSpatioTemporal",
            "CrossAttnDownBlockSpatioTemporal",
            "CrossAttnDownBlockSpatioTemporal",
            "DownBlockSpatioTemporal",
        ),
        up_block_types: tuple[UpBlockType, ...] = (
            "UpBlockSpatioTemporal",
            "CrossAttnUpBlockSpatioTemporal",
            "CrossAttnUpBlockSpatioTemporal",
            "CrossAttnUpBlockSpatioTemporal",
        ),
        layers_per_block: int = 2,
        num_attention_heads: tuple[int, ...] = (5, 10, 20, 20),
        cross_attention_dim: int = 1024,
        transformer_layers_per_block: int = 1,
        addition_time_embed_dim: int = 256,
        projection_class_embeddings_input_dim: int = 768,
        feedback_maps: tuple[FeedbackMap, ...] = (),
        feedback_downscale: int = 8,
        plucker_rays: Literal["correct", "published"] = "correct",
        plucker_skips: Literal["unchanged", "published"] = "unchanged",
        temporal_context: Literal["correct", "published"] = "correct",
        adapter_start: Literal["zero_head", "published"] = "zero_head",
        feedback_to: Literal["downsamplers", "skips"] = "downsamplers",
        gradient_checkpointing: bool = False,
        attention: Literal["sdpa", "eager"] = "sdpa",
        compile: str | None = None,
        trainable: Trainable = "all",
        lora_rank: int = 16,
    ) -> None:
        super().__init__()
        _check_sizes(block_out_channels, down_block_types, up_block_types, num_attention_heads)
        if projection_class_embeddings_input_dim != 3 * addition_time_embed_dim:
            raise ValueError(
                f"projection_class_embeddings_input_dim: expected 3 * addition_time_embed_dim = "
                f"{3 * addition_time_embed_dim} (three ids), got {projection_class_embeddings_input_dim}."
            )
        if len(set(feedback_maps)) != len(feedback_maps):
            raise ValueError(f"feedback_maps: expected each kind once, got {list(feedback_maps)}.")
        if lora_rank < 1:
            raise ValueError(f"lora_rank: expected at least 1, got {lora_rank}.")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.feedback_maps = tuple(feedback_maps)
        self.feedback_downscale = feedback_downscale
        self.plucker_rays: Literal["correct", "published"] = plucker_rays
        self.plucker_skips = plucker_skips
        self.temporal_context = temporal_context
        self.adapter_start = adapter_start
        self.feedback_to = feedback_to
        self.trainable = trainable
        self.lora_rank = lora_rank
        unet = UNetSpatioTemporalConditionModel(
            in_channels=in_channels,
            out_channels=out_channels,
            block_out_channels=tuple(block_out_channels),
            down_block_types=tuple(down_block_types),
            up_block_types=tuple(up_block_types),
            layers_per_block=layers_per_block,
            num_attention_heads=tuple(num_attention_heads),
            cross_attention_dim=cross_attention_dim,
            transformer_layers_per_block=transformer_layers_per_block,
            addition_time_embed_dim=addition_time_embed_dim,
            projection_class_embeddings_input_dim=projection_class_embeddings_input_dim,
        )
        # diffusers decorates its classes in a way that hides their types.
        self.unet = cast(Any, unet)
        use_view_convolutions(self.unet)
        processor = Attending() if attention == "sdpa" else AttnProcessor()  # type: ignore[no-untyped-call]
        self.unet.set_attn_processor(processor)
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self._compiled = compile is not None
        if compile is not None:
            self._compile(compile)
        widths = tuple(block_out_channels)
        self.down_plucker = nn.ModuleList(PluckerEmbedding(c) for c in (widths[0], *widths[:-1]))
        self.mid_plucker = PluckerEmbedding(widths[-1])
        self.up_plucker = nn.ModuleList(PluckerEmbedding(c) for c in (widths[-1], *widths[:0:-1]))
        self.cond_encoder = nn.ModuleList(
            FeedbackAdapter(widths, feedback_downscale, adapter_start == "zero_head") for _ in self.feedback_maps
        )
        self._extras: _Extras | None = None
        self._register_hooks()

    def _compile(self, backend: str) -> None:
        known = torch.compiler.list_backends(exclude_tags=())
        if backend not in known:
            raise ValueError(f"compile: expected null or one of {', '.join(known)}, got {backend!r}.")
        if self.temporal_context == "published":
            raise ValueError(
                "compile: expected null with temporal_context = published, whose hooks inside the transformers cannot "
                f"be compiled, got {backend!r}."
            )
        for block in (*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks):
            for module in (*block.resnets, *getattr(block, "attentions", ())):
                module.compile(backend=backend)

    def prepare_training(self) -> None:
        """Leave gradients to the parameters that `trainable` names, and add the LoRA layers if it says so.

        Called after weights are loaded, which have the names of a network without LoRA.
        """
        if self.trainable == "all":
            return
        for name, parameter in self.unet.named_parameters():
            parameter.requires_grad_(self.trainable == "temporal" and bool(_TEMPORAL.search(name)))
        if self.trainable == "adapters":
            self.requires_grad_(False)
            self.cond_encoder.requires_grad_(True)
        if self.trainable == "lora":
            # Here, because peft takes a second to import, which nothing else needs.
            from peft import LoraConfig, inject_adapter_in_model

            config = LoraConfig(r=self.lora_rank, lora_alpha=self.lora_rank, target_modules=_LORA_TARGETS)
            inject_adapter_in_model(config, self.unet)

    def merged_state_dict(self) -> dict[str, Tensor]:
        """The weights under the names of a network without LoRA, with LoRA's additions in them."""
        state = dict(self.state_dict())
        for name, layer in self.named_modules():
            if hasattr(layer, "get_delta_weight"):  # a layer of peft
                merged = layer.base_layer.weight + layer.get_delta_weight("default")
                state[f"{name}.base_layer.weight"] = merged.detach()
        return {key.replace(".base_layer.", "."): value for key, value in state.items() if ".lora_" not in key}

    def _register_hooks(self) -> None:
        # Bound methods, no closures: a deep copy of the module (EMA) then gets hooks that belong to the copy.
        for level, block in enumerate(self.unet.down_blocks):
            block.register_forward_pre_hook(partial(self._add_rays, self.down_plucker[level]), with_kwargs=True)
            if block.downsamplers is not None and self.feedback_to == "downsamplers":
                block.downsamplers[0].register_forward_pre_hook(partial(self._add_feedback, level))
            elif block.downsamplers is not None:
                last = (getattr(block, "attentions", None) or block.resnets)[-1]
                last.register_forward_hook(partial(self._add_feedback_to_skip, level))
        self.unet.mid_block.register_forward_pre_hook(partial(self._add_rays, self.mid_plucker), with_kwargs=True)
        self.unet.mid_block.register_forward_hook(self._add_last_feedback)
        for block, plucker in zip(self.unet.up_blocks, self.up_plucker, strict=True):
            block.register_forward_pre_hook(partial(self._add_rays, plucker), with_kwargs=True)
        if self.temporal_context == "published":
            for name, module in self.unet.named_modules():
                if name.rpartition(".")[0].endswith("temporal_transformer_blocks"):
                    module.register_forward_pre_hook(self._mix_contexts, with_kwargs=True)

    def _add_rays(
        self, plucker: nn.Module, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._extras is None:
            return None
        hidden = kwargs["hidden_states"]
        rays = plucker(self._extras.rays(*hidden.shape[-2:])).to(hidden.dtype)
        if self.plucker_skips == "published":
            hidden.add_(rays)
            return None
        return args, {**kwargs, "hidden_states": hidden + rays}

    def _add_feedback(self, level: int, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._extras is None or self._extras.features is None:
            return None
        return args[0] + self._extras.features[level].to(args[0].dtype), *args[1:]

    def _add_feedback_to_skip(
        self, level: int, _: nn.Module, __: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]
    ) -> Tensor | tuple[Tensor, ...]:
        if self._extras is None or self._extras.features is None:
            return output
        if isinstance(output, Tensor):
            return output + self._extras.features[level].to(output.dtype)
        return output[0] + self._extras.features[level].to(output[0].dtype), *output[1:]

    def _add_last_feedback(self, _: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        if self._extras is None or self._extras.features is None:
            return output
        return output + self._extras.features[-1].to(output.dtype)

    def _mix_contexts(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._extras is None:
            return None
        context = kwargs["encoder_hidden_states"]
        batch = self._extras.cameras.shape[0]
        sample = torch.arange(context.shape[0], device=context.device) % batch
        return args, {**kwargs, "encoder_hidden_states": context[:: context.shape[0] // batch][sample]}

    def _compiling(self) -> AbstractContextManager[None]:
        if not self._compiled:
            return nullcontext()
        # One program a shape, with and without gradients: SVD's residual blocks have 14 shapes, and beyond the limit,
        # 8 by default, blocks would silently run as they are.
        limits: AbstractContextManager[None] = torch._dynamo.config.patch(recompile_limit=128)
        return limits

    @contextmanager
    def _adding(self, extras: _Extras) -> Iterator[None]:
        self._extras = extras
        try:
            yield
        finally:
            self._extras = None

    def forward(
        self,
        sample: Tensor,
        c_noise: Tensor,
        image_embedding: Tensor,
        added_time_ids: Tensor,
        cameras: Cameras,
        feedback: Mapping[str, Tensor] | None = None,
        feedback_mask: Tensor | None = None,
    ) -> Tensor:
        """F(c_in * x_noisy, c_noise; conditions, feedback).

        Args:
            sample: [B, V, in_channels, h, w] noisy latents times c_in, then the conditioning latent of every view.
            c_noise: [B] ln(sigma) / 4.
            image_embedding: [B, 1, cross_attention_dim] of the input view; zero where dropped.
            added_time_ids: [B, 3] fps id, motion bucket, noise level of the conditioning image.
            cameras: [B, V].
            feedback: for each of `feedback_maps` [B', V, 3, H, W] in [0, 1] with H = h * feedback_downscale, or what
                `adapt` made of them; B' = B, or a part of it that is repeated (guidance: B' objects, two branches);
                None = no feedback yet.
            feedback_mask: [B] bool, True where a sample's feedback counts; None = all.

        Returns:
            [B, V, out_channels, h, w].

        Raises:
            ValueError: a shape that does not fit, or feedback of other kinds than `feedback_maps`.
        """
        self._check_inputs(sample, cameras)
        extras = _Extras(cameras, self.plucker_rays, self._features(sample, feedback, feedback_mask))
        with self._adding(extras), self._compiling():
            output: Tensor = self.unet(sample, c_noise, image_embedding, added_time_ids, return_dict=False)[0]
        return output

    def adapt(self, maps: Mapping[str, Tensor]) -> AdaptedFeedback:
        """The adapters' features of maps [B, V, 3, H, W], once for as many forward passes as the maps serve.

        Raises:
            ValueError: maps of other kinds than `feedback_maps`.
        """
        if set(maps) != set(self.feedback_maps):
            raise ValueError(
                f"feedback: expected maps {sorted(self.feedback_maps)}, got {sorted(maps)}; "
                "set the network's feedback_maps to the kinds that are rendered."
            )
        sums: list[Tensor] = []
        for kind, adapter in zip(self.feedback_maps, self.cond_encoder, strict=True):
            features = adapter(maps[kind].flatten(0, 1).to(next(adapter.parameters()).dtype))
            sums = [a + b for a, b in zip(sums, features, strict=True)] if sums else features
        return AdaptedFeedback(maps, sums)

    def _features(
        self, sample: Tensor, feedback: Mapping[str, Tensor] | None, feedback_mask: Tensor | None
    ) -> list[Tensor] | None:
        """Sum of the adapters' features per level, exactly zero (or None) where there is no feedback."""
        batch, views, _, height, width = sample.shape
        shape = (views, 3, height * self.feedback_downscale, width * self.feedback_downscale)
        if feedback is None:
            if self.adapter_start == "zero_head" or not self.feedback_maps:
                return None
            feedback = {kind: sample.new_zeros(batch, *shape) for kind in self.feedback_maps}
        for kind, maps in feedback.items():
            if tuple(maps.shape[1:]) != shape or not maps.shape[0] or batch % maps.shape[0]:
                raise ValueError(
                    f"feedback[{kind!r}]: expected {[batch, *shape]} (latents times feedback_downscale "
                    f"{self.feedback_downscale}), got {list(maps.shape)}; resize the maps or set feedback_downscale."
                )
        if feedback_mask is not None and self.adapter_start == "published":
            feedback = {
                kind: torch.where(feedback_mask[:, None, None, None, None], maps, 0) for kind, maps in feedback.items()
            }
        adapted = feedback if isinstance(feedback, AdaptedFeedback) else self.adapt(feedback)
        features = list(adapted.features)
        if (copies := batch * views // features[0].shape[0]) > 1:
            features = [level.repeat(copies, 1, 1, 1) for level in features]
        if feedback_mask is not None and self.adapter_start == "zero_head":
            mask = feedback_mask.repeat_interleave(views)[:, None, None, None]
            features = [torch.where(mask, level, 0) for level in features]
        return features

    def _check_inputs(self, sample: Tensor, cameras: Cameras) -> None:
        if sample.ndim != 5 or sample.shape[2] != self.in_channels:
            raise ValueError(f"sample: expected [B, V, {self.in_channels}, h, w], got {list(sample.shape)}.")
        if cameras.shape != sample.shape[:2]:
            raise ValueError(f"cameras: expected [B, V] = {list(sample.shape[:2])}, got {list(cameras.shape)}.")

    def extra_repr(self) -> str:
        """The switches, for `print(model)`."""
        return (
            f"feedback_maps={self.feedback_maps}, plucker_rays={self.plucker_rays}, "
            f"plucker_skips={self.plucker_skips}, temporal_context={self.temporal_context}, "
            f"adapter_start={self.adapter_start}, feedback_to={self.feedback_to}"
        )


def _check_sizes(
    widths: tuple[int, ...], down: tuple[str, ...], up: tuple[str, ...], num_attention_heads: tuple[int, ...]
) -> None:
    for name, values in (
        ("down_block_types", down),
        ("up_block_types", up),
        ("num_attention_heads", num_attention_heads),
    ):
        if len(values) != len(widths):
            raise ValueError(
                f"{name}: expected one for each of the {len(widths)} block_out_channels, got {len(values)}."
            )
    for width, heads in zip(widths, num_attention_heads, strict=True):
        if width % 32 or width % heads:
            raise ValueError(
                f"block_out_channels: expected multiples of 32 and of their heads, got {width} with {heads}."
            )
