"""The Textual application: main screen, startup, shutdown, driver, preferences, theme."""
