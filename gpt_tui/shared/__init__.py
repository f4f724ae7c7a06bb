"""Building blocks used across the user interface: key table, formatting, dialogs, small widgets."""
