"""The screen that configures a new run: form, validation, estimate."""
