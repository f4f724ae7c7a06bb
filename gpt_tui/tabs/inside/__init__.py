"""Inside tab: what a model computes on a text, in views that share a cursor."""
