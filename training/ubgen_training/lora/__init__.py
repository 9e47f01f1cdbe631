"""Attaching, saving and reading a LoRA (or a whole denoiser) in diffusers' own format."""
