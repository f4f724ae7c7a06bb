"""Training on several processes: ranks, messages between them, sums in a fixed order, and the watch over all ranks."""
