"""What `benchmark` measures: each module gives rows of one kind."""
