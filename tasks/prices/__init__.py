"""The exchange or a file → validated candles → the stored series of a product.

Not here: how candles are stored (storage/prices), what is computed from them (tasks/features).
Read first: ingest_coinbase.py and ingest_csv.py, then validation.py.
"""
