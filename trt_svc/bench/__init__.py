"""The benchmark suite: speed and quality of the same run in the same row."""
