"""The app in a browser on this machine: server, app process, page."""
