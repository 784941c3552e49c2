"""Upkeep of stored data: compaction, vacuum, removal, and checks of files and of references between rows.

Not here: what is needed and for how long, or what a finding means (`tasks/upkeep`); the tables themselves.
Read `compaction.py` first, then `file_integrity.py` and `references.py`.
"""
