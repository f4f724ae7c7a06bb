"""The tabs of the main screen, one package per tab."""
