"""Compaction and vacuum of tables, removal of orphaned folders, integrity of stored files.

Not here: the decision what to delete (`tasks/upkeep`) and backups (`storage/backup`).
Read first: `compaction.py`.
"""
