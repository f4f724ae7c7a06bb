"""The Textual application: startup, shutdown, driver, preferences, theme."""
