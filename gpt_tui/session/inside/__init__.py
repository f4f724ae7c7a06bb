"""Views of the computation of a model on a text, for `gpt-tui inspect` and for the Inside tab."""
