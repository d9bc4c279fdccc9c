"""Renderers on PyTorch3D: Gaussians differentiably, meshes as ground truth, both to one `Rendering`."""
