"""The Delta tables: schemas, appending and reading, forecasts, scores, checksums, snapshots, SQL views.

Not here: the computing of figures (`tasks`) and the compaction of tables (`storage/upkeep`).
Read first: `schemas.py`, the one list of tables and columns, then `delta.py`.
"""
