"""Belongs here: what people look at after a run: the HTML page, its charts and text, Prefect artifacts, events.

Not here: figures themselves (evaluation, backtest), the commands' output (flows/cli), files (storage/reports.py).
Read first: page.py, then context.py.
"""
