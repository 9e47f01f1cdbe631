"""Policy gradient: DDPO and group advantages."""
