"""Rewards: plain callables of images. `qalign/` is one model of them."""
