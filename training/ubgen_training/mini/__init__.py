"""Rebuilding the embedded models."""
