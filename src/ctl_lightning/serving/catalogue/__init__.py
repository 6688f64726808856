"""Catalogues of vectors: made, changed and searched."""
