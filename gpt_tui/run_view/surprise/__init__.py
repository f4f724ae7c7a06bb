"""The screen that colors a text by surprise, and continues it from another token: shared by Chat and the samples."""
