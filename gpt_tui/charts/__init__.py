"""What a chart shows, computed: from a run's history to the characters on the screen. Pure."""
