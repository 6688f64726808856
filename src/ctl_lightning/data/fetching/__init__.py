"""Fetches the files of a published data set over HTTP."""
