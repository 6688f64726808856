"""Files on disk -> triplets. Knows nothing of the model."""
