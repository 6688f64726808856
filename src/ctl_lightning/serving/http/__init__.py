"""Recommendations over HTTP: routes, uploads and their limits, batches of waiting requests, metrics, and an orderly end."""
