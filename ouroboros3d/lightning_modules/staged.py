"""Staged: the two networks as most pipelines have them, trained and run one after the other."""

from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D


class Staged(ImageTo3D):
    """F and R trained side by side with no exchange; sampling reconstructs once, at the end.

    The same steps, data and seeds as training the two apart (docs/method.md, section 4).
    """
