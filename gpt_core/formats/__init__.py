"""File formats: how models and runs are stored."""
