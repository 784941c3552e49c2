"""Core: what rooms pass on (PriceHistory, Model, Lineage, Forecast, Score), and what every room needs.

Not here: anything that only one room needs, or that opens a file or a connection.
Read history.py, model.py and forecast.py first, then steps.py: how a function becomes a Prefect task.
"""
