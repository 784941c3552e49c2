"""What people look at after a run: the page, its charts and text, Prefect artifacts and events.

Not here: the figures themselves (evaluation, backtest), what commands print (flows/cli), files (storage).
Read first: page.py, then context.py.
"""
