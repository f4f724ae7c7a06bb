"""The training loop: setup, steps, evaluation, saving, events and controls."""
