"""Header, banner, help and command palette, which surround the tabs of the main screen."""
