"""The face of gpt-tui: the app, the headless run and the plain commands over `gpt_core`."""
