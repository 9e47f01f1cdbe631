"""Scores of finished images, and views of a dataset by score."""
