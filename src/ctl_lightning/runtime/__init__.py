"""What every program needs and no program is about: configuration, errors, files, progress, processes."""
