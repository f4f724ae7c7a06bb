"""Runs on several ranks, started by mpiexec."""
