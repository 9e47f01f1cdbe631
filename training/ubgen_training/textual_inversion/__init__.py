"""Learning one word."""
