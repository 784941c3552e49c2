"""A whole home as one archive, and an archive restored to a home, on any engines.

Not here: checks of stored data (`upkeep`), or the engines that rows and files come from and go to.
Read `archive.py` first: it defines the format. `transfer.py` is for databases on a server.
"""
