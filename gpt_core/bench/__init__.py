"""Benchmark, profiler, and estimate of the memory and duration of a run."""
