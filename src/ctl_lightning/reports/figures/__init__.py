"""Draws figures from arrays alone: they need no network, no data module and no logger."""
