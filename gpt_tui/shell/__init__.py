"""What surrounds the tabs on the main screen: header, banner, help, command palette."""
