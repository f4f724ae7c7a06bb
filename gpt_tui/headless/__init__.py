"""Training without the app: runner, reporters, signals, terminal chat."""
