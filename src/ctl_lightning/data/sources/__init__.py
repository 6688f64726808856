"""Formats of data on disk: each says which pairs there are, and where the image of an id lies."""
