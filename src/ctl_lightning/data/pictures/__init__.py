"""Picture files as people have them: where they lie, which are read, and what else a file may be."""
