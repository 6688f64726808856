"""Which pictures are one photo under several ids: re-encoded, resized, slightly cropped, bordered or mirrored copies."""
