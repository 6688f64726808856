"""How each method turns pictures into embeddings and distances, one file per method.

Plain torch: nothing here knows Lightning, Hydra or the data.
"""
