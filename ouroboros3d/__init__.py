"""Ablation studies of image-to-3D generation: staged, inference-combined and recursive variants side by side.

Sources: Ouroboros3D (Wen et al., CVPR 2025, arXiv 2406.03184), Stable Video Diffusion (Blattmann et al. 2023),
LGM (Tang et al., ECCV 2024).
"""

__version__ = "0.1.0"
