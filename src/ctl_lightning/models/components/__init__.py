"""What methods are built of: backbone, heads, distances, losses."""
