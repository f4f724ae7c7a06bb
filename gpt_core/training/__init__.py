"""Training: the loop, what it tells and is told, the optimizer, evaluation, and checkpoints."""
