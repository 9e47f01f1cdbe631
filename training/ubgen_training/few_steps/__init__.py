"""Distilling a model into a few steps."""
