"""The runs that left a log: found, read bit by bit, and told in words."""
