"""The chat without its widgets: which model answers, and how a reply is made."""
