"""A run before it starts: its settings as fields, and what it would take."""
