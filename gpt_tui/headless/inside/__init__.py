"""What a model computes on a text, as tables for terminals, pipes, programs and web pages."""
