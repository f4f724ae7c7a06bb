"""Views of `gpt-tui inspect` printed on a terminal or as a web page."""
