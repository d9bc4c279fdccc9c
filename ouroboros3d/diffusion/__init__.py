"""The denoiser's preconditioning and conditions, guidance, and the one sampler of all variants."""
