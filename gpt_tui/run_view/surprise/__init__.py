"""The screen that colours a text by surprise, and continues it from another token: shared by Chat and the samples."""
