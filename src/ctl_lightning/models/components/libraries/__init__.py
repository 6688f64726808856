"""The libraries that image networks come from: one library, one file."""
