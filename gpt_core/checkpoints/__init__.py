"""The checkpoint folder of a run: names, lock, newest and best checkpoint."""
