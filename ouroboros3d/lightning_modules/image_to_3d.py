"""The base of all variants: what they share in training, sampling, validation, test and prediction."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.cameras import Cameras
from ouroboros3d.diffusion.conditioning import (
    Conditions,
    added_time_ids,
    draw_condition_noise_levels,
    draw_guidance_dropout,
)
from ouroboros3d.diffusion.guidance import GuidedDenoiser, view_guidance
from ouroboros3d.diffusion.preconditioning import (
    Draw,
    Feedback,
    denoise,
    diffusion_loss,
    draw_training_sigmas,
    per_sample,
)
from ouroboros3d.diffusion.sampling import AfterEstimate, Observer, Step, karras_sigmas, sample, unchanged
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.lightning_modules.augmentation import augment_views
from ouroboros3d.lightning_modules.cost import CostMeter
from ouroboros3d.lightning_modules.evaluation import EvaluationSettings, Evaluator
from ouroboros3d.lightning_modules.generation import CALLS, Evaluation, Generation, SamplerSettings
from ouroboros3d.lightning_modules.learning_rates import Decay, LearningRateFactors
from ouroboros3d.lightning_modules.losses import ReconstructionLoss, ReconstructionLossSettings
from ouroboros3d.lightning_modules.optimization import Optimized
from ouroboros3d.lightning_modules.precision import training_precision
from ouroboros3d.lightning_modules.seeding import named_noise, named_seed, named_stream
from ouroboros3d.lightning_modules.sharding import repeats
from ouroboros3d.lightning_modules.weights import PaperWeights, adapted, initialise, meaning
from ouroboros3d.networks.codecs import ImageCodec
from ouroboros3d.networks.image_encoder import ImageEncoder
from ouroboros3d.networks.lgm import LGM
from ouroboros3d.networks.multiview_unet import MultiviewUNet
from ouroboros3d.renderers.gaussians import GaussianRenderer
from ouroboros3d.renderers.rendering import Rendering


class ImageTo3D(Optimized):
    """A multi-view diffusion model F and a reconstructor R, without any exchange.

    Subclasses are the variants. They fill two hooks: `training_losses` (what F and R exchange in training) and
    `after_estimate` (what they exchange in sampling).

    Args:
        unet: the multi-view diffusion network F, with feedback adapters if the variant has them.
        reconstructor: R, views to Gaussians.
        codec: images to latents and back; frozen.
        image_encoder: embedding of the input image for F's cross-attention.
        renderer: differentiable Gaussian renderer.
        optimizer: of all trainable parameters.
        sampler: settings of the sampler.
        reconstruction_loss: weights of the reconstruction loss.
        evaluation: how geometry is compared in tests.
        base_weights: where training starts: `bundled` (desk scale), a safetensors file of base weights, a checkpoint of
            this project (staged ones fit every variant), a folder that `export` wrote, the paper's weights, or null for
            random weights.
        train: the parts that are trained; without exchange a loss that trains none of them is not computed.
        guidance_dropout: rate p of docs/method.md, section 1.
        augmentation: probability of each of LGM's augmentations of clean input views.
        warmup_steps: linear warm-up of the learning rate.
        decay: of the learning rate after the warm-up: none, by a half `cosine` over the rest of the run, or by a
            straight line to zero over the `last_40_percent` of it, so that most of a run has the full rate (Zhai et al.
            2022, Haegele et al. 2024).
        log_sigma_mean: mean of ln sigma in training; SVD's 1.0 is for latents of large images, small ones are drowned
            by less noise.
        log_sigma_std: standard deviation of ln sigma in training, SVD's 1.6.
        learning_rates: factors on the learning rate of parts that are new to pre-trained weights.
        bfloat16_on_cpu: compute training steps in bfloat16 on a CPU that has instructions for it, about 1.6 times as
            fast; another one stays in float32, and a log line says which. All but training is in float32 anyway.
        condition_noise_ids: noise level id `per_sample`, or sample 0's for the whole batch (`published`).
        decode_views: decode only the views of an estimate that R uses (`used`), or all of them. A codec whose decoder
            sees neighbouring views gives slightly other images without them.
    """

    def __init__(
        self,
        unet: MultiviewUNet,
        reconstructor: LGM,
        codec: ImageCodec,
        image_encoder: ImageEncoder,
        renderer: GaussianRenderer,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        sampler: SamplerSettings = SamplerSettings(),  # noqa: B008 - frozen
        reconstruction_loss: ReconstructionLossSettings = ReconstructionLossSettings(),  # noqa: B008 - frozen
        evaluation: EvaluationSettings = EvaluationSettings(),  # noqa: B008 - frozen
        base_weights: str | PaperWeights | None = "bundled",
        train: tuple[Literal["unet", "reconstructor", "image_encoder"], ...] = ("unet", "reconstructor"),
        guidance_dropout: float = 0.1,
        augmentation: float = 0.5,
        warmup_steps: int = 0,
        decay: Decay = "constant",
        log_sigma_mean: float = 1.0,
        log_sigma_std: float = 1.6,
        learning_rates: LearningRateFactors = LearningRateFactors(),  # noqa: B008 - frozen
        bfloat16_on_cpu: bool = False,
        condition_noise_ids: Literal["per_sample", "published"] = "per_sample",
        decode_views: Literal["used", "all"] = "used",
    ) -> None:
        super().__init__()
        self.unet = unet
        self.reconstructor = reconstructor
        self.codec = codec.requires_grad_(False)
        self.image_encoder = image_encoder
        self.renderer = renderer
        # A function of its own, because a copy of the module (EMA) copies what it holds, and the parser's holds locks.
        self.optimizer: OptimizerCallable = lambda parameters: optimizer(parameters)
        self.sampler = sampler
        self.reconstruction_loss = ReconstructionLoss(reconstruction_loss)
        self.guidance_dropout = guidance_dropout
        self.augmentation = augmentation
        self.warmup_steps = warmup_steps
        self.decay: Decay = decay
        if not (math.isfinite(log_sigma_mean) and 0 < log_sigma_std < math.inf):
            raise ValueError(
                "log_sigma_mean, log_sigma_std: expected a finite mean and a deviation > 0 of ln sigma, got "
                f"{log_sigma_mean:g} and {log_sigma_std:g}."
            )
        self.log_sigma_mean = log_sigma_mean
        self.log_sigma_std = log_sigma_std
        self.learning_rates = learning_rates
        self.bfloat16_on_cpu = bfloat16_on_cpu
        self.condition_noise_ids = condition_noise_ids
        self.decode_views = decode_views
        if not train:
            raise ValueError("train: expected at least one of unet, reconstructor, image_encoder, got none.")
        self.trained_parts = tuple(train)
        for name in ("unet", "reconstructor", "image_encoder"):
            getattr(self, name).requires_grad_(name in train)
        self.run_seed = 0
        self._micro_batch = (-1, 0)  # optimiser step, and batch within it where gradients are accumulated
        # What became of every key of the weights, by part.
        self.weights_report = {} if base_weights is None else initialise(self, base_weights)
        if "unet" in train:
            self.unet.prepare_training()
        elif self.unet.trainable != "all":
            raise ValueError(
                f"unet.trainable: expected `all` where train leaves the unet out, got {self.unet.trainable!r}; "
                "add unet to train."
            )
        self.evaluator = Evaluator(evaluation)
        self.validation_losses = nn.ModuleDict(
            # A mean of NaN is NaN; torchmetrics' own way of leaving it, `disable`, leaves the weights out.
            {name: MeanMetric(nan_strategy=float("nan")) for name in ("diffusion", "reconstruction")}
        )
        self.observers: Sequence[Observer] = ()  # look at the steps of a test or a prediction; set from outside
        self.meter = CostMeter(torch.device("cpu"))  # of the generation or the training step that runs, or ran last

    # ---------------------------------------------------------------------------------------------- the two hooks

    def training_losses(self, batch: MultiviewBatch, coin: float, seed: int) -> dict[str, Tensor]:
        """Losses of one step by name; their sum is minimised. Here: those without exchange.

        Args:
            batch: B objects.
            coin: uniform in [0, 1), one a step and the same on every rank, so that all run the same graph.
            seed: of the step's random numbers.
        """
        return self.separate_losses(batch, seed)

    def after_estimate(self, cameras: Cameras, background: Tensor, size: tuple[int, int]) -> AfterEstimate:
        """The sampler's hook for objects seen by cameras [B, V] on background [B, 3], images of (H, W). Here: none."""
        return unchanged

    # ---------------------------------------------------------------------------------------------- shared pieces

    def separate_losses(self, batch: MultiviewBatch, seed: int) -> dict[str, Tensor]:
        """Losses of the trained parts apart, which validation shows of every variant: F denoises, R sees clean views.

        Args:
            batch: B objects.
            seed: of the random numbers.
        """
        losses: dict[str, Tensor] = {}
        if {"unet", "image_encoder"} & set(self.trained_parts):
            draw = self.draw(batch, seed)
            losses["diffusion"] = diffusion_loss(self.denoise(draw), draw.latents, draw.sigma)
        if "reconstructor" in self.trained_parts:
            loss = self.reconstruction_loss(self.reconstruct_clean(batch, seed), batch)
            losses["reconstruction"] = self.reconstruction_loss.settings.weight * loss
        return losses

    def draw(self, batch: MultiviewBatch, seed: int) -> Draw:
        """Encode a batch, and for each object draw noise level, noise and dropped conditions."""
        latents, images = self.codec.encode(batch.images_01), batch.input_images_01
        each: list[tuple[Tensor, ...]] = []
        for stream in self._streams(batch, seed, "draw"):
            sigma = draw_training_sigmas(1, stream, self.log_sigma_mean, self.log_sigma_std)
            noise = torch.randn(1, *latents.shape[1:], generator=stream)
            level = draw_condition_noise_levels(1, stream)
            condition_noise = torch.randn(1, *images.shape[1:], generator=stream)
            each.append(
                (sigma, noise, level, condition_noise, *draw_guidance_dropout(1, self.guidance_dropout, stream))
            )
        drawn = [torch.cat(parts).to(latents.device) for parts in zip(*each, strict=True)]
        sigma, noise, level, condition_noise, *dropped = drawn
        conditions = self.conditions(images, batch.cameras, level, condition_noise.to(images)).dropped(*dropped)
        noise = noise.to(latents)
        return Draw(latents, latents + per_sample(sigma, noise) * noise, sigma, conditions)

    def _streams(self, batch: MultiviewBatch, seed: int, purpose: str) -> Iterator[torch.Generator]:
        """A random stream for each object, so that it matters to none which others are in its batch.

        In training they are named by the objects' places in the batch of all processes together, which no two share.
        """
        world_size, rank = (1, 0) if self._trainer is None else (self.trainer.world_size, self.global_rank)
        for index, uid in enumerate(batch.uids):
            yield named_stream(f"{seed}/{purpose}/{index * world_size + rank if self.training else uid}")

    def conditions(self, image_01: Tensor, cameras: Cameras, noise_level: Tensor, noise: Tensor) -> Conditions:
        """Conditions from input images [B, 3, H, W] with noise [B, 3, H, W] of level [B] added before encoding."""
        # The level counts in [-1, 1], twice the range that the codec takes.
        self.meter.count("vae_encodes")
        latents = self.codec.condition(image_01 + per_sample(noise_level, noise) * noise / 2)
        ids = noise_level if self.condition_noise_ids == "per_sample" else noise_level[:1].expand_as(noise_level)
        return Conditions(self.image_encoder(image_01), latents, added_time_ids(ids), cameras)

    def denoise(self, draw: Draw, feedback: Feedback | None = None) -> Tensor:
        """z0_hat [B, V, C, h, w] of a training draw."""
        return denoise(self.unet, draw.noisy, draw.sigma, draw.conditions, feedback)

    def reconstruct_clean(self, batch: MultiviewBatch, seed: int) -> Rendering:
        """Reconstruct a batch's clean views (augmented as LGM does) and render the result at all V + T cameras."""
        views, cameras = batch.images_01, batch.cameras
        if self.training and self.augmentation > 0:
            each = [
                augment_views(one.images_01, one.cameras, stream, self.augmentation, one.background)
                for one, stream in zip(
                    map(batch.object, range(len(batch))), self._streams(batch, seed, "augment"), strict=True
                )
            ]
            views = torch.cat([images for images, _ in each])
            cameras = Cameras.cat([turned for _, turned in each], dim=0)
        return self.render_all(self.reconstructor(views, cameras), batch)

    def render_all(self, gaussians: Gaussians, batch: MultiviewBatch) -> Rendering:
        """Render at the batch's V input and T novel cameras, [B, V + T, ...], on its background."""
        cameras = Cameras.cat([batch.cameras, batch.target_cameras])
        height, width = batch.images_01.shape[-2:]
        return self.render(gaussians, cameras, (height, width), batch.background)

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, V, 3, H, W] of latents [B, V, C, h, w], counted in the generation's cost."""
        self.meter.count("vae_decodes", latents.shape[1])
        return self.codec.decode(latents)

    def encode(self, images_01: Tensor) -> Tensor:
        """Latents [B, V, C, h, w] of images [B, V, 3, H, W], counted in the generation's cost."""
        self.meter.count("vae_encodes", images_01.shape[1])
        return self.codec.encode(images_01)

    def reconstruct(self, views: Tensor, cameras: Cameras, sigma: Tensor | None = None) -> Gaussians:
        """Gaussians [B, N] of views [B, V, 3, H, W], counted in the generation's cost.

        Args:
            views: decoded estimates, or clean views.
            cameras: [B, V].
            sigma: [] or [B] the noise levels that the views were estimated at; None = clean. Only a variant that trains
                R on estimates tells R about them.
        """
        self.meter.count("recon_calls")
        gaussians: Gaussians = self.reconstructor(views, cameras, self.noise_input(sigma, views.shape[0]))
        return gaussians

    def reconstruct_latents(self, latents: Tensor, cameras: Cameras, sigma: Tensor | None = None) -> Gaussians:
        """Gaussians [B, N] of latents [B, V, C, h, w]: decodes what R needs, see `decode_views`, and reconstructs."""
        if self.decode_views == "used":
            used = self.reconstructor.view_indices(latents.shape[1])
            latents, cameras = latents[:, used], cameras[:, used]
        return self.reconstruct(self.decode(latents), cameras, sigma)

    def noise_input(self, sigma: Tensor | None, objects: int) -> Tensor | None:
        """What R is told [B] of estimates at noise levels sigma [] or [B]: nothing, as it was trained on clean ones."""
        return None

    def render(self, gaussians: Gaussians, cameras: Cameras, size: tuple[int, int], background: Tensor) -> Rendering:
        """Images [B, V, ..., H, W] of size (H, W), counted in the generation's cost."""
        rendering: Rendering = self.renderer(gaussians, cameras, *size, background)
        self.meter.count_render(rendering)
        return rendering

    @torch.no_grad()
    def generate(
        self,
        image_01: Tensor,
        cameras: Cameras,
        background: Tensor,
        uids: Sequence[str],
        observers: Sequence[Observer] = (),
        draw: Callable[[tuple[int, ...], str], Tensor] = named_noise,
    ) -> Generation:
        """Generate V views and a 3D reconstruction of each input image.

        Args:
            image_01: [B, 3, H, W] in [0, 1].
            cameras: [B, V] input-relative; camera 0 sees the input image.
            background: [B, 3] the input image's background.
            uids: B names; an object's noise depends on its name and the seed alone, not on its batch or variant.
            observers: look at each sampler step.
            draw: standard normal noise of a shape, for the seed and an object's name.
        """
        meter = self.meter = CostMeter(image_01.device)

        def observe(step: Step) -> None:
            with meter.paused():
                for observer in observers:
                    observer(step)

        size = (image_01.shape[-2], image_01.shape[-1])
        settings, count = self.sampler, image_01.shape[0]
        shape = (self.codec.latent_channels, *(side // self.codec.downscale for side in size))
        names = [f"{settings.seed}/{uid}" for uid in uids]
        with meter.running():
            noise = torch.stack([draw((cameras.shape[1], *shape), name) for name in names]).to(image_01)
            condition_noise = torch.stack([draw((3, *size), f"{name}/input") for name in names]).to(image_01)
            level = torch.full((count,), settings.condition_noise, device=image_01.device)
            conditions = self.conditions(image_01, cameras, level, condition_noise)
            guidance = view_guidance(
                cameras.shape[1], settings.guidance_min, settings.guidance_max, settings.guidance_shape
            )
            denoiser = GuidedDenoiser(self.unet, conditions, guidance)
            latents = sample(
                denoiser,
                noise,
                karras_sigmas(settings.num_steps, settings.sigma_min, settings.sigma_max),
                after_estimate=self.after_estimate(cameras, background, size),
                observers=[observe] if observers else [],
            )
            views = self.decode(latents).clamp(0, 1)
            gaussians = self.reconstruct(views, cameras)
        cost: dict[str, float] = {"nfe": denoiser.evaluations, **{name: meter.calls[name] for name in CALLS}}
        cost |= {"seconds": meter.seconds / count, "peak_memory_mib": meter.peak_mib}
        return Generation(views, gaussians, cost)

    def sampling_protocol(self) -> dict[str, Any]:
        """What the variant does between the sampler's steps, for a result row (docs/formats.md, section 4.1)."""
        return {"projection_steps": [], "feedback_steps": [], "blend": None}

    # ---------------------------------------------------------------------------------------------- Lightning's steps

    def on_fit_start(self) -> None:
        """Remember the run's seed: every step's random numbers follow from it, so that a resumed run is exact."""
        self.run_seed = self.trainer.strategy.broadcast(torch.initial_seed())

    def training_step(self, batch: MultiviewBatch, batch_idx: int) -> Tensor:
        """The losses of one step, logged and summed.

        Every random number in it follows from the run's seed, the step, the micro-batch and the object's place in the
        batch of all processes together: W processes of B objects give the losses of one process of W * B.
        """
        # Lightning's batch index is one behind after resuming from a checkpoint inside an epoch; its step is not.
        step_before, micro = self._micro_batch
        self._micro_batch = (self.global_step, micro + 1 if step_before == self.global_step else 0)
        self.meter = CostMeter(self.device)
        stream = named_stream(f"{self.run_seed}/{self._micro_batch}")
        coin = float(torch.rand((), generator=stream))
        with training_precision(self.device, self.bfloat16_on_cpu):
            losses = self.training_losses(batch, coin, stream.initial_seed())
        total = torch.stack(list(losses.values())).sum()
        for name, loss in losses.items():
            self.log(f"train/{name}_loss", loss, batch_size=len(batch), sync_dist=True)
        self.log("train/loss", total, prog_bar=True, batch_size=len(batch), sync_dist=True)
        self.log("train/truncated_pixels", self.meter.truncated, batch_size=len(batch))
        return total

    def validation_step(self, batch: MultiviewBatch, batch_idx: int) -> Evaluation:  # type: ignore[override]
        """Losses with fixed noise, and the full generation's quality."""
        loader = self.trainer.val_dataloaders
        repeated = repeats(batch_idx, len(batch), loader, self.global_rank, self.trainer.world_size).to(self.device)
        count = int((~repeated).sum())  # repeated objects come last
        meter = self.meter = CostMeter(self.device)
        losses = self.separate_losses(batch[: count or 1], named_seed("validation"))
        for name, loss in losses.items():
            # Lightning's own mean over processes rounds their number of objects down.
            metric = self.validation_losses[name]
            assert isinstance(metric, MeanMetric)
            metric.update(loss, count)
            self.log(f"val/{name}_loss", metric, batch_size=len(batch))
        evaluation = self.evaluate(batch)
        for name, value in evaluation.values.items():
            metric = self.evaluator.metrics[name]
            metric.add(value.where(~repeated, torch.nan))
            self.log(f"val/{name}", metric, prog_bar=name == "novel_psnr_foreground", batch_size=len(batch))
        truncated = max(meter.truncated, evaluation.truncated)
        self.log("val/truncated_pixels", truncated, batch_size=len(batch), reduce_fx="max", sync_dist=True)
        return evaluation

    def test_step(self, batch: MultiviewBatch, batch_idx: int) -> Evaluation:  # type: ignore[override]
        """The full generation of each object and its values, for the callback that writes the results."""
        return self.evaluate(batch)

    def predict_step(self, batch: MultiviewBatch, batch_idx: int) -> Generation:
        """Views and Gaussians of input images without ground truth."""
        return self.generate(batch.input_images_01, batch.cameras, batch.background, batch.uids, self.observers)

    def evaluate(self, batch: MultiviewBatch) -> Evaluation:
        """Generate and compare with the ground truth.

        Values [B] by name: those of `Evaluator.images`, with a batch that has true geometry also those of
        `Evaluator.geometry`.
        """
        generation = self.generate(batch.input_images_01, batch.cameras, batch.background, batch.uids, self.observers)
        with torch.autocast(self.device.type, enabled=False):  # a metric is measured in float32 whatever the networks'
            rendering = self.render_all(generation.gaussians, batch)
            values = self.evaluator.images(batch, generation.views_01, rendering)
            alignment = None
            if batch.surface is not None:
                geometry, alignment = self.evaluator.geometry(batch, generation.gaussians, rendering, self.renderer)
                values |= geometry
            elif batch.coordinates is not None:
                values |= self.evaluator.coordinates(batch, rendering)
        return Evaluation(generation, rendering.colour.clamp(0, 1), values, alignment, self.meter.truncated)

    # ---------------------------------------------------------------------------------------------- weights

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the variant and what its weights mean, so that another one can say what it was given."""
        checkpoint["ouroboros3d_variant"] = type(self).__name__
        checkpoint["ouroboros3d_meaning"] = meaning(self)
        checkpoint["ouroboros3d_seed"] = self.run_seed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Accept a staged checkpoint in every variant; answer any other mismatch with one clear line.

        Raises:
            ValueError: of another variant or shape.
        """
        variant = checkpoint.get("ouroboros3d_variant", "an unknown variant")
        fitting = self._trainer is not None and self.trainer.state.fn == "fit"
        if fitting and variant != type(self).__name__:
            raise ValueError(
                f"ckpt_path: expected a checkpoint of {type(self).__name__} to resume, got one of {variant}; to start "
                "from its weights pass it as --model.base_weights."
            )
        if "state_dict" in checkpoint:  # strategies that shard have loaded it by now, strictly
            checkpoint["state_dict"], _ = adapted(self, checkpoint, variant)
