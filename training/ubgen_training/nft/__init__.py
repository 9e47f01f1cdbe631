"""Rewards by the forward process: DiffusionNFT and advantage-weighted matching."""
