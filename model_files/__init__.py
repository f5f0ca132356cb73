"""A model's files: download them, read checkpoints, keep converted weights."""
