"""Prices: the exchange or a file to validated candles, and the PriceHistory that a run hands on.

Not here: the tables of the price database (storage/prices), what is computed from candles (features).
Read sources.py first: one step that reads a file or ends in ingest_coinbase.py.
"""
