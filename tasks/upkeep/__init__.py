"""Upkeep: checks that everything stored is what was recorded, forecasts made again, and what may be deleted.

Not here: how files are compacted or copied (storage), the flow that runs it each week (flows/maintain.py).
Read reproduce.py first: it walks through everything that a forecast was made from.
"""
