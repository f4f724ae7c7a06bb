"""What a model computes on a text: for `gpt-tui inspect` and for the Inside tab."""
