"""A dataset folder: shards and their commit, columns, card, reading back."""
