"""The main screen, and the questions and help that come over it."""
