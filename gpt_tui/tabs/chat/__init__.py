"""The Chat tab: generate text with one model, or compare two."""
