"""From settings to a finished dataset; also drawing a row again."""
