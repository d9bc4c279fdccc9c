"""Which way a column of `results.csv` gets better."""

import re

_WHERE = "(?:(?:mv|render|novel|gap|estimate)_)?"
_HIGHER = re.compile(
    rf"{_WHERE}(psnr|ssim)(_foreground)?|((render|novel)_)?mask_iou|volume_iou|fscore(@[\d.]+)?|normal_consistency"
)
_LOWER = re.compile(
    rf"{_WHERE}lpips(_foreground)?|chamfer(_unaligned)?|coordinate_error|truncated_pixels"
    r"|nfe|vae_decodes|vae_encodes|recon_calls|render_calls|seconds|peak_memory_mib"
)


def higher_is_better(name: str) -> bool | None:
    """Whether a larger value of a column is a better one.

    Args:
        name: of a metric or cost column, such as `novel_psnr_foreground`, `fscore@0.02` or `seconds`.

    Returns:
        None where neither direction is better (`batch_size`, and `constant_psnr_foreground`, which tells of the data
        and not of the method) and for a name that is no metric.
    """
    if _HIGHER.fullmatch(name):
        return True
    return False if _LOWER.fullmatch(name) else None
