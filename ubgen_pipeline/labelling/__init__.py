"""Labels by a trained segmenter or detector."""
