"""The checkpoints as the app shows them: found, checked, and told in words."""
