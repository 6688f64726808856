"""The parts that methods are built of: backbone, heads, distances, losses."""
