"""Text generation: sampling, prompts, and a token-by-token generator."""
