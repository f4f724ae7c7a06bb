"""Loss and perplexity charts: series, axes, braille raster, and the widgets that draw them."""
