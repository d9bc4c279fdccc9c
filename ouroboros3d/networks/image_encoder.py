"""The input view's embedding for cross-attention: CLIP's vision tower."""

import kornia
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ImageEncoder(nn.Module):
    """CLIP's projected image embedding (Radford et al. 2021), resized and normalised as Stable Video Diffusion does.

    Sizes default to Stable Video Diffusion's encoder, ViT-H/14.

    Args:
        hidden_size: width.
        num_layers: transformer layers.
        num_heads: heads of each.
        image_size: pixels that images are resized to.
        patch_size: pixels of a patch; divides `image_size`.
        projection_dim: length of the embedding, the denoiser's `cross_attention_dim`.
    """

    def __init__(
        self,
        hidden_size: int = 1280,
        num_layers: int = 32,
        num_heads: int = 16,
        image_size: int = 224,
        patch_size: int = 14,
        projection_dim: int = 1024,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size: expected a multiple of patch_size = {patch_size}, got {image_size}.")
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size: expected a multiple of num_heads = {num_heads}, got {hidden_size}.")
        self.image_size = image_size
        self.embedding_dim = projection_dim
        self.clip = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=hidden_size,
                intermediate_size=4 * hidden_size,
                projection_dim=projection_dim,
                num_hidden_layers=num_layers,
                num_attention_heads=num_heads,
                image_size=image_size,
                patch_size=patch_size,
                hidden_act="gelu",
            )
        )

    def forward(self, images_01: Tensor) -> Tensor:
        """Embeddings [B, 1, projection_dim] of images [B, 3, H, W] in [0, 1]."""
        if images_01.ndim != 4 or images_01.shape[1] != 3:
            raise ValueError(f"images_01: expected [B, 3, H, W], got {list(images_01.shape)}.")
        size = (self.image_size, self.image_size)
        images = images_01
        if images.shape[-2:] != size:
            images = kornia.geometry.resize(images, size, interpolation="bicubic", align_corners=True, antialias=True)
        mean, std = (images.new_tensor(values)[:, None, None] for values in (_CLIP_MEAN, _CLIP_STD))
        pixels = ((images - mean) / std).to(self.clip.visual_projection.weight.dtype)
        embeddings: Tensor = self.clip(pixel_values=pixels).image_embeds
        return embeddings[:, None]
