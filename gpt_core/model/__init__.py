"""The model: its parameters, its buffers, the forward pass and the backward pass."""
