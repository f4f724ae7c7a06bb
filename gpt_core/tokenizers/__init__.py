"""Tokenizers: text to token ids and back, and how their vocabularies are trained."""
