"""A finished dataset in other layouts, a file per format."""
