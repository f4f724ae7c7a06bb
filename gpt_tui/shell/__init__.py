"""The main screen around the tabs: header, banner, help, command palette."""
