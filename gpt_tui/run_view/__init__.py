"""Views of one run, shared by the Train and Runs tabs: status panel, samples, log."""
