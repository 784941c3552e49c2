"""The price database: candles as observed, series, data versions; and the engines of all databases.

Not here: how prices are fetched and validated (tasks/prices), and the Delta tables (storage/tables).
Read price_store.py first, then queries.py; engine.py chooses between SQLite and PostgreSQL.
"""
