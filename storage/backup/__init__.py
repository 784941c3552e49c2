"""A whole home as one archive, and an archive back into a home, on whichever engines either is.

Not here: checks of what is stored (`upkeep`), or the engines that rows and files come from and go to.
Read `archive.py` first: it holds the format. `transfer.py` is for databases on a server.
"""
