"""Which image is drawn from what: prompt, seed, source row; known before a model loads. No torch."""
