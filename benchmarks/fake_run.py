"""Runs of the real code at any size without its memory: what they compute and keep, counted on fake tensors.

Fake tensors (`torch._subclasses.fake_tensor`) have shapes, types and storages but no numbers; their kernels are torch's
meta kernels. All else, autograd, autocast and checkpointing included, is what a real run does. Two things are as on a
GPU, not as on a CPU: normalisations run in float32 under autocast, and attention is fused. Questions about numbers (is
it finite? is any guidance on?) are answered yes. The Gaussian renderer is replaced by one that only makes images of the
right shape, because its work depends on where the splats are: 65,536 of them at 512 px are well below 0.1 TFLOP.
"""

import contextlib
import io
import weakref
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any
from unittest import mock

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule
from lpips import LPIPS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.cameras import Cameras
from ouroboros3d.cli import main
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D
from ouroboros3d.renderers.rendering import Rendering

Config = dict[str, Any]
_FAKE = FakeTensorMode()


def configuration(*arguments: str) -> Config:
    """The configuration that a `fit` of these arguments would run, as the command itself prints it."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            main(["fit", *arguments, "--print_config"])
        except SystemExit as done:
            if done.code:
                raise
    config: Config = yaml.safe_load(printed.getvalue())
    return config


def built(config: Config) -> tuple[ImageTo3D, LightningDataModule]:
    """Model and data of a configuration."""
    parser = ArgumentParser(allow_abbrev=False)
    parser.add_subclass_arguments(ImageTo3D, "model", fail_untyped=False)  # as the command line does
    parser.add_subclass_arguments(LightningDataModule, "data")
    made = parser.instantiate(parser.parse_object({name: config[name] for name in ("model", "data")}))
    return made.model, made.data


def without_files(config: Config) -> ImageTo3D:
    """The model of a configuration with random weights, its own and LPIPS's."""
    arguments = config["model"]["init_args"]
    loss = arguments["reconstruction_loss"]
    without = {"base_weights": None, "reconstruction_loss": {**loss, "lpips_weight": 0.0}}
    model, _ = built({**config, "model": {**config["model"], "init_args": {**arguments, **without}}})
    if loss["lpips_weight"]:
        backbone = LPIPS(net=loss["lpips_net"], pretrained=False, pnet_rand=True, verbose=False)
        model.reconstruction_loss._lpips = [backbone.eval().requires_grad_(False)]
        model.reconstruction_loss.settings = replace(
            model.reconstruction_loss.settings, lpips_weight=loss["lpips_weight"]
        )
    return model


def random_batch(config: Config) -> MultiviewBatch:
    """Noise of the shape that a configuration's data has, seen by cameras of an orbit."""
    data = config["data"]["init_args"]
    objects, size, count = data["batch_size"], data["rig"]["image_size"], data["num_views"]
    azimuths = torch.arange(count + data["num_target_views"]) * 360.0 / count
    orbit = Cameras.orbit(azimuths, 10.0, 1.7417, 39.598)
    cameras, world = Cameras.cat([orbit[None]] * objects, 0).relative_to_first()
    images, alpha = torch.rand(objects, len(azimuths), 3, size, size), torch.rand(objects, len(azimuths), 1, size, size)
    return MultiviewBatch(
        tuple(f"object {index}" for index in range(objects)),
        *(images[:, :count], alpha[:, :count], cameras[:, :count]),
        *(images[:, count:], alpha[:, count:], cameras[:, count:]),
        torch.ones(objects, 3),
        world,
    )


def fake_model(config: Config) -> ImageTo3D:
    """A model `without_files` and with the renderer's stand-in, on fake tensors."""
    with torch.device("meta"):
        model = without_files(config)
    model.renderer = _ShapeRenderer()  # type: ignore[assignment]
    model.augmentation = 0.0  # whether an object is augmented is a question about numbers
    for lpips in model.reconstruction_loss._lpips:
        lpips.to = lambda _, here=lpips: here  # type: ignore[method-assign] # a fake module cannot be moved
    for part in (*model.modules(), *(part for lpips in model.reconstruction_loss._lpips for part in lpips.modules())):
        for name, tensor in part._parameters.items():
            if tensor is not None:
                part._parameters[name] = nn.Parameter(_fake(tensor.detach()), tensor.requires_grad)
        for name, tensor in part._buffers.items():
            if tensor is not None:
                part._buffers[name] = _fake(tensor)
    return model


def fake_batch(config: Config) -> MultiviewBatch:
    """A `random_batch` on fake tensors."""
    batch = random_batch(config)

    def fake(value: object) -> object:
        if isinstance(value, Cameras):
            return Cameras(_fake(value.c2w_opencv), _fake(value.intrinsics_norm))
        return _fake(value) if isinstance(value, Tensor) else value

    return replace(batch, **{field.name: fake(getattr(batch, field.name)) for field in fields(batch)})


def _fake(tensor: Tensor) -> Tensor:
    return FakeTensor(_FAKE, tensor.to("meta"), torch.device("cpu"))


@contextlib.contextmanager
def faked(precision: str = "32-true") -> Iterator[None]:
    """Fake tensors, a GPU's ways, and a Trainer's precision: `32-true`, `bf16-mixed` or `16-mixed`."""
    kind = torch.float16 if precision == "16-mixed" else torch.bfloat16
    norms = {name: _in_float32(getattr(functional, name)) for name in ("group_norm", "layer_norm")}
    # The state of a random generator is bytes, which a fake tensor has none of.
    state = {"get_rng_state": _without_fakes(torch.get_rng_state), "set_rng_state": lambda _: None}
    with (
        mock.patch.multiple(functional, **norms),
        mock.patch.multiple(torch, **state),
        mock.patch.multiple(Tensor, __bool__=lambda _: True, __int__=lambda _: 0),
        _FAKE,
        torch.autocast("cpu", kind, enabled=precision.endswith("mixed"), cache_enabled=False),  # Lightning's
    ):
        yield


def _in_float32(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def wide(value: object) -> object:
        return value.float() if isinstance(value, Tensor) else value

    def under_autocast(*args: object, **kwargs: object) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return norm(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return norm(*map(wide, args), **{name: wide(value) for name, value in kwargs.items()})

    return under_autocast


def _without_fakes(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def real() -> Tensor:
        with unset_fake_temporarily():
            return call()

    return real


def tflops(work: Callable[[], object]) -> float:
    """10^12 floating-point operations of matrix products, convolutions and attention in a piece of work."""
    counter = FlopCounterMode(
        display=False,
        custom_mapping={
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
                q, k, v
            ),
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
                lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
            ),
        },
    )
    with counter:
        work()
    return counter.get_total_flops() / 1e12


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages made inside that are alive, and the most there were at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._meet(leaf.untyped_storage())
        return result

    def _meet(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class _ShapeRenderer:
    """Images of the right shape, with a gradient to every Gaussian parameter."""

    def __call__(
        self, gaussians: Gaussians, cameras: Cameras, height: int, width: int, background: Tensor | None = None
    ) -> Rendering:
        total = torch.stack([getattr(gaussians, field.name).sum() for field in fields(gaussians)]).sum()
        images = [total + torch.zeros(*cameras.shape, channels, height, width) for channels in (3, 1, 1, 3)]
        return Rendering(*images, total.detach())
