"""Out into the ecosystem: a trained variant as a pipeline of diffusers."""

from ouroboros3d.export.pipeline import OuroborosPipeline, OuroborosPipelineOutput

__all__ = ["OuroborosPipeline", "OuroborosPipelineOutput"]
