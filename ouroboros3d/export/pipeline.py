"""`OuroborosPipeline`: a trained variant with the interface of diffusers' pipelines."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.outputs import BaseOutput
from huggingface_hub import snapshot_download
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ouroboros3d.callbacks.pictures import to_image
from ouroboros3d.callbacks.predictions import save_prediction
from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.photo_framing import Photo, photo_batch
from ouroboros3d.export import components
from ouroboros3d.gaussians import Gaussians, PlyAxes
from ouroboros3d.lightning_modules.generation import SamplerSettings
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D
from ouroboros3d.lightning_modules.inference_combined import InferenceCombined, ProjectionSettings
from ouroboros3d.lightning_modules.recursive import Recursive
from ouroboros3d.lightning_modules.seeding import named_noise
from ouroboros3d.lightning_modules.staged import Staged
from ouroboros3d.renderers.gaussians import GaussianRenderer

OutputType = Literal["pil", "np", "pt"]
ImageInput = str | Path | Image.Image | NDArray[Any] | Tensor
Views = list[list[Image.Image]] | NDArray[np.float32] | Tensor

VARIANTS: dict[str, type[ImageTo3D]] = {
    "Staged": Staged,
    "InferenceCombined": InferenceCombined,
    "Recursive": Recursive,
}
"""What a pipeline's `variant` may be."""

COMPONENTS: dict[str, tuple[type, ...]] = {
    "unet": (components.MultiviewUNet,),
    "reconstructor": (components.LGM,),
    "codec": (components.PixelCodec, components.SVDCodec),
    "image_encoder": (components.ImageEncoder,),
}
"""What each component may be: a folder names no other class, so loading it runs nothing that it brought along."""


@dataclass
class OuroborosPipelineOutput(BaseOutput):
    """B objects from B images, in the object's own frame: y up, the input view at azimuth 0.

    Args:
        views: the V generated views of each, the first one being the input's: a list of lists of PIL images, an array
            [B, V, H, W, 3] or a tensor [B, V, 3, H, W], in [0, 1].
        gaussians: [B, N] their reconstruction.
        cameras: [B, V] of the views.
        names: B, of the images' files, or digits that follow from the pixels.
    """

    views: Views
    gaussians: Gaussians
    cameras: Cameras
    names: list[str]


class OuroborosPipeline(DiffusionPipeline):
    """One image to V views and 3D Gaussians, as `python -m ouroboros3d predict` makes them.

    Args:
        unet: the multi-view diffusion network.
        reconstructor: views to Gaussians.
        codec: images to latents and back.
        image_encoder: embedding of the input image.
        variant: how the two networks work together: `Staged`, `InferenceCombined` or `Recursive`.
        settings: of the variant's sampling by name, as in a run's config.yaml.
        renderer: settings of the Gaussian renderer.
        photo: how an image is prepared and which cameras are generated: `image_size`, `num_views`, `background`,
            `removal`, `radius` and `fov_deg` of `photo_batch`.
        autocast: the precision that `predict` computes in besides float32 weights: `bfloat16`, `float16` or None.
    """

    def __init__(
        self,
        unet: components.MultiviewUNet,
        reconstructor: components.LGM,
        codec: components.PixelCodec | components.SVDCodec,
        image_encoder: components.ImageEncoder,
        variant: str = "Staged",
        settings: dict[str, Any] | None = None,
        renderer: dict[str, Any] | None = None,
        photo: dict[str, Any] | None = None,
        autocast: str | None = None,
    ) -> None:
        super().__init__()
        networks = {"unet": unet, "reconstructor": reconstructor, "codec": codec, "image_encoder": image_encoder}
        self.register_modules(**networks)  # type: ignore[no-untyped-call]
        self.register_to_config(  # type: ignore[no-untyped-call]
            variant=variant, settings=settings or {}, renderer=renderer or {}, photo=photo or {}, autocast=autocast
        )
        self._variant()  # a setting that does not fit is refused before any work

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        **kwargs: Any,  # noqa: ANN401 - as diffusers
    ) -> "OuroborosPipeline":
        """Load a folder that `python -m ouroboros3d export` or `save_pretrained` wrote, or such a hub repository.

        Args:
            pretrained_model_name_or_path: the folder, or a hub id.
            kwargs: of diffusers, such as `torch_dtype`.

        Raises:
            ValueError: a folder of another pipeline, or damaged weights.
            OSError: a missing file.
        """
        folder = pretrained_model_name_or_path
        if not Path(folder).is_dir():
            # diffusers' own download takes components outside diffusers for missing code.
            hub = ("cache_dir", "force_download", "local_files_only", "token", "revision")
            given = {name: kwargs.pop(name) for name in hub if name in kwargs}
            folder = snapshot_download(str(folder), allow_patterns=["*.json", "*.safetensors"], **given)
        _check_index(Path(folder), cast(dict[str, Any], cls.load_config(folder)))
        return super().from_pretrained(folder, **kwargs)

    @torch.no_grad()
    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput],
        elevation_deg: float = 10.0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
    ) -> OuroborosPipelineOutput | tuple[Views, Gaussians]:
        """Generate views and 3D Gaussians of images.

        Args:
            image: one, or a list of B: a file, a PIL image, an array [H, W, 3 or 4] of bytes or of floats in [0, 1], or
                a tensor [3 or 4, H, W] in [0, 1]. The object is taken from the alpha channel, or cut from a plain
                background, and framed as the training images are.
            elevation_deg: how far above the object the photos were taken, an assumption; it only levels the result.
            num_inference_steps: instead of the settings'.
            guidance_scale: at the view opposite to the input, instead of the settings'.
            generator: of the noise, one or one for each image; without one, an object's noise follows from its name
                and the settings' seed, as in `predict`.
            output_type: of the views: `pil`, `np` or `pt`.
            return_dict: an `OuroborosPipelineOutput`, or else a tuple.

        Returns:
            views and Gaussians of each image.

        Raises:
            ValueError: an image that cannot be used, or a wrong argument.
        """
        if output_type not in get_args(OutputType):
            raise ValueError(f"output_type: expected one of {', '.join(get_args(OutputType))}, got {output_type!r}.")
        images = cast(Sequence[ImageInput], image if isinstance(image, list | tuple) else [image])
        own = generator if isinstance(generator, list | tuple) else [generator] * len(images)
        generators = cast(Sequence[torch.Generator | None], own)
        if not images or len(generators) != len(images):
            raise ValueError(
                f"image, generator: expected one generator for each image, got {len(generators)} and {len(images)}."
            )
        variant = self._variant(num_steps=num_inference_steps, guidance_max=guidance_scale)
        device = self._execution_device
        # One at a time, as `predict` does: a result does not depend on the other images.
        batches = [photo_batch(_photo(one), elevation_deg=elevation_deg, **self.config["photo"]) for one in images]
        generations = []
        with self.progress_bar(total=len(batches) * variant.sampler.num_steps) as bar, self._precision(device):
            for batch, source in zip((batch.to(device) for batch in batches), generators, strict=True):
                inputs = (batch.input_images_01, batch.cameras, batch.background, batch.uids)
                generations.append(variant.generate(*inputs, [lambda _: bar.update()], _noise(source)))
        frames = [batch.object_from_batch.to(device) for batch in batches]
        gaussians = Gaussians.cat(
            [made.gaussians.transform(frame) for made, frame in zip(generations, frames, strict=True)]
        )
        views = _of_type(torch.cat([made.views_01 for made in generations]).float(), output_type)
        if not return_dict:
            return views, gaussians
        cameras = Cameras.cat([batch.cameras.transform(batch.object_from_batch[:, None]) for batch in batches], dim=0)
        return OuroborosPipelineOutput(views, gaussians, cameras.to(device), [batch.uids[0] for batch in batches])

    def save(self, output: OuroborosPipelineOutput, folder: str | Path, axes: PlyAxes = "gl_yup") -> list[Path]:
        """Write what `predict` writes, a folder for each object: views, gaussians.ply, a turntable and a page.

        Args:
            output: of a call.
            folder: that the objects' folders go to.
            axes: of the plys, see docs/viewers.md: `gl_yup`, `colmap`, `blender_zup` or `supersplat`.

        Returns:
            the objects' folders.
        """
        folders = [Path(folder) / name for name in output.names]
        for index, (own, views) in enumerate(zip(folders, output.views, strict=True)):
            one = slice(index, index + 1)
            save_prediction(
                own,
                _as_tensor(views),
                output.gaussians[one],
                output.cameras[one],
                self._variant().renderer,
                self.config["variant"],
                axes=axes,
            )
        return folders

    def _variant(self, **sampler: Any) -> ImageTo3D:  # noqa: ANN401
        """The variant with its settings, and with those of the sampler that are given."""
        settings = dict(self.config["settings"])
        given = {name: value for name, value in sampler.items() if value is not None}
        try:
            made: dict[str, Any] = {"sampler": SamplerSettings(**{**settings.pop("sampler", {}), **given})}
            if "projection" in settings:
                made["projection"] = ProjectionSettings(**settings.pop("projection"))
            renderer = GaussianRenderer(**self.config["renderer"])
            parts = {name: getattr(self, name) for name in COMPONENTS}
            variant = VARIANTS[self.config["variant"]](
                **parts, renderer=renderer, base_weights=None, **made, **settings
            )
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"model_index.json: expected the settings of one of {', '.join(VARIANTS)}, {error}."
            ) from error
        return variant.eval()

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """What `predict` computes in, or the precision of weights that are not float32."""
        own = self.unet.dtype
        dtype = own if own != torch.float32 else getattr(torch, self.config["autocast"] or "float32")
        return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def _check_index(folder: Path, index: dict[str, Any]) -> None:
    if index.get("_class_name") != OuroborosPipeline.__name__:
        raise ValueError(
            f"{folder}: expected a folder that `python -m ouroboros3d export` wrote, got a {index.get('_class_name')}."
        )
    for name, classes in COMPONENTS.items():
        known = [[known.__module__, known.__name__] for known in classes]
        if list(index.get(name, ())) not in known:
            raise ValueError(f"{folder}/model_index.json: expected {name} to be one of {known}, got {index.get(name)}.")


def _photo(image: ImageInput) -> Photo:
    """A file or a PIL image of any accepted input."""
    if isinstance(image, str | Path):
        if not Path(image).is_file():
            raise ValueError(f"image: expected a file, got {str(image)!r} and nothing there.")
        return Path(image)
    if isinstance(image, Image.Image):
        return image
    array = image.detach().movedim(0, -1).cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    whole = array.dtype == np.uint8
    if array.ndim != 3 or array.shape[-1] not in (3, 4) or not (whole or (array.min() >= 0 and array.max() <= 1)):
        raise ValueError(
            f"image: expected an array [H, W, 3 or 4] of bytes or of floats in [0, 1], or a tensor [3 or 4, H, W], got "
            f"{list(image.shape)} of {image.dtype}."
        )
    return Image.fromarray(array if whole else (array * 255).round().astype(np.uint8))


def _noise(generator: torch.Generator | None) -> Callable[[tuple[int, ...], str], Tensor]:
    """Where the noise comes from."""
    if generator is None:
        return named_noise

    def draw(shape: tuple[int, ...], name: str) -> Tensor:
        return torch.randn(shape, generator=generator, device=generator.device)

    return draw


def _of_type(views_01: Tensor, output_type: OutputType) -> Views:
    if output_type == "pt":
        return views_01
    if output_type == "np":
        return cast(NDArray[np.float32], views_01.movedim(2, -1).cpu().numpy())
    return [[to_image(view) for view in views] for views in views_01]


def _as_tensor(views: list[Image.Image] | NDArray[np.float32] | Tensor) -> Tensor:
    """Views [V, 3, H, W] in [0, 1] of any output type."""
    if isinstance(views, Tensor):
        return views
    array = views if isinstance(views, np.ndarray) else np.stack([np.asarray(view) for view in views]) / np.float32(255)
    return torch.from_numpy(array).movedim(-1, 1)
