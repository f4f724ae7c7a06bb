"""Checkpoints of a models folder: names, lock, newest and best checkpoint, replacement of another run's files."""
