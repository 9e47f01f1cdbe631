"""Denoising training with any target and weighting."""
