"""Upkeep of a home: verify all of it, reproduce a forecast, compact tables, prune unused items.

Not here: how files and rows are read, checked and removed (`storage/upkeep`), or when upkeep runs (`flows`).
Read `verify.py` first; the references between rows are in `verify_references.py`, one SQL statement each.
"""
