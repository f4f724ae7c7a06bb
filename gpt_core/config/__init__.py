"""Configuration of a run: settings and their bounds, presets, resolving from several sources, TOML files."""
