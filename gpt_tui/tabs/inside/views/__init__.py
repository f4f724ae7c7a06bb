"""The views of the Inside tab, one module each: what it computes in the worker, and what it shows of that."""
