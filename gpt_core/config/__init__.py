"""Configuration of a run: settings, presets, resolving them from their sources, TOML files."""
