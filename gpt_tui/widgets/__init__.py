"""The parts of the screens. What they show is computed in the pure modules of `gpt_tui`."""
