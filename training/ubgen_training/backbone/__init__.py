"""Training a timm classifier."""
