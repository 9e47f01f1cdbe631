"""Q-Align, a vision-language model that scores quality in five words: ported, so that its score has a gradient."""
