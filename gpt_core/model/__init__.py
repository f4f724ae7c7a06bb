"""The GPT model: parameters, layers, training passes, inference with a KV cache, FLOPs and memory."""
