"""Images -> style embeddings -> distance -> loss. Plain torch; knows nothing of Lightning."""
