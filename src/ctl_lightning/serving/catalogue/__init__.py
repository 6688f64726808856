"""Makes, changes and searches catalogues of product vectors."""
