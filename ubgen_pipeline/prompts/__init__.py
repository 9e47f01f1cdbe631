"""From class lists and texts to prompts. No torch."""
