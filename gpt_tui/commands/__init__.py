"""What `gpt-tui COMMAND` does, one module for each kind of command."""
