"""The networks as components of a diffusers pipeline: each its own config.json and safetensors, under its own keys.

A component is the network itself. What is mixed in records the arguments that it was made from, saves and loads.
"""

from typing import Any, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError

from ouroboros3d.networks import codecs, image_encoder, lgm, multiview_unet


class Component(ModelMixin, ConfigMixin):
    """Saving and loading of diffusers, but every key of the weights must fit, and no pickle is read."""

    config_name: str = "config.json"  # type: ignore[assignment] # a base without a file has None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as diffusers
        """Load a component as diffusers does.

        Args:
            pretrained_model_name_or_path: its folder.
            kwargs: of diffusers.

        Raises:
            ValueError: a damaged file, settings or weights that do not fit.
            OSError: a missing file.
        """
        kwargs |= {"use_safetensors": True, "output_loading_info": True}
        try:
            loaded = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except (SafetensorError, TypeError, RuntimeError) as error:  # what diffusers lets pass of damaged files
            raise ValueError(
                f"{pretrained_model_name_or_path}: expected the weights of {cls.__name__}, {error}"
            ) from error
        component, info = cast(tuple[Component, dict[str, Any]], loaded)
        wrong = {name: sorted(map(str, keys)) for name, keys in info.items() if keys}
        if wrong:
            raise ValueError(f"{pretrained_model_name_or_path}: expected the weights of {cls.__name__}, got {wrong}.")
        return component


class MultiviewUNet(multiview_unet.MultiviewUNet, Component):
    """The denoiser's network F."""

    __init__ = register_to_config(multiview_unet.MultiviewUNet.__init__)


class LGM(lgm.LGM, Component):
    """The reconstructor R."""

    __init__ = register_to_config(lgm.LGM.__init__)


class ImageEncoder(image_encoder.ImageEncoder, Component):
    """The embedding of the input image."""

    __init__ = register_to_config(image_encoder.ImageEncoder.__init__)


class SVDCodec(codecs.SVDCodec, Component):
    """Stable Video Diffusion's autoencoder, which keeps the precision that it was trained with."""

    __init__ = register_to_config(codecs.SVDCodec.__init__)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as diffusers
        """Load it in its own precision; arguments and errors as `Component.from_pretrained`."""
        config = cast(dict[str, Any], cls.load_config(pretrained_model_name_or_path))
        kwargs["torch_dtype"] = getattr(torch, config["precision"])
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    def to(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override] # noqa: ANN401 - as torch
        """Move it to a device, in its own precision: it overflows in float16."""
        kwargs.pop("dtype", None)
        return super().to(*(arg for arg in args if not isinstance(arg, torch.dtype)), **kwargs)


class PixelCodec(codecs.PixelCodec, Component):
    """Pixels moved into channels: settings and no weights."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, downscale: int = 4, scale: float = 2.0) -> None:
        super().__init__(downscale, scale)
        # diffusers asks every component where it is.
        self.register_buffer("placement", torch.empty(0), persistent=False)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as diffusers
        """Make it from its settings; arguments and errors as `Component.from_pretrained`."""
        return cls.from_config(cast(dict[str, Any], cls.load_config(pretrained_model_name_or_path)))

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:  # type: ignore[override] # noqa: ANN401
        """Write its settings.

        Args:
            save_directory: its folder.
            kwargs: of diffusers.
        """
        self.save_config(save_directory)
