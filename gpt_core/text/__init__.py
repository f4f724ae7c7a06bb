"""Text files, documents, token streams and their caches, and data loaders."""
