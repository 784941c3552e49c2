"""A whole home as one archive, and an archive back into a home, whichever engines either is on.

Not here: the moving of rows and files while closecast runs, and checks of what is stored (`upkeep`).
Read `archive.py` first: it holds the format.
"""
