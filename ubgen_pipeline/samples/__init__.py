"""Which images come next, and from what: prompt, seed and source row, known before a model loads. No torch."""
