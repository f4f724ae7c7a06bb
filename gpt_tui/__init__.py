"""The user interface of gpt-tui: command line, headless training, and the Textual app."""
