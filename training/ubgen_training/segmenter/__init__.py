"""Training a segmenter."""
