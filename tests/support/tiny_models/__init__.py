"""Tiny pipelines of diffusers with random weights, one file for each family: ``build(...)`` makes one offline."""
