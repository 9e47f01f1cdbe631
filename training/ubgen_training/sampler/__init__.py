"""The sampler as an `nn.Module`: labels and seeds in, differentiable images out."""
