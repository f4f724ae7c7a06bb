"""Layers of the transformer, one per file: parameters, buffers, forward and backward pass, and FLOPs of each."""
