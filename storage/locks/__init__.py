"""Who may write: locks of products and tables, the owner of a bucket, the check of a worker.

Not here: how an engine holds a lock (storage/prices), and what is written under one.
Read locks.py first.
"""
