"""The Checkpoints tab: list, verify, resume and delete checkpoints."""
