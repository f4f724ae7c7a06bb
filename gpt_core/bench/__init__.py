"""Benchmarks, profiling, and the estimate of memory and time before a run."""
