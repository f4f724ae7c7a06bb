"""The command line: the parser, and one module per family of commands."""
