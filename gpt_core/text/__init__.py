"""Text files as documents, token streams and batches."""
