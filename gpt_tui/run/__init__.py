"""The run of the app: its thread, its history, and what is told of it."""
