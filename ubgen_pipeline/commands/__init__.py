"""The `ubgen` command, its one parser, and the one place that prints to stderr."""
