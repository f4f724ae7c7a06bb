"""Bridges to other programs: models written in the formats that they read, and their models read.

`export` writes a model in one of these formats and checks the result. One module per format and direction.
"""
