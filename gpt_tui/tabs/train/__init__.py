"""The Train tab: start, watch and control a run."""
