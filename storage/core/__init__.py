"""Errors, the home, locations (folder or S3), files, logs, progress, provenance: what every other room needs.

Not here: anything that knows prices, tables or models.
Read first: `home.py`, then `location.py`, which names what an engine must do.
"""
