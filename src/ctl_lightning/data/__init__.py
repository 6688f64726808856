"""How files on disk become batches of triplets; nothing here depends on the model."""
