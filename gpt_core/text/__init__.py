"""Text: found, cut into documents, turned into token ids, and read as shuffled windows."""
