"""The Runs tab: view and compare finished and live runs from their logs."""
