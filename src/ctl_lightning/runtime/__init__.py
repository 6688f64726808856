"""Helpers that all programs share: configuration, errors, files, progress, processes."""
