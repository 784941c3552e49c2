"""Evaluation: forecasts against the closes of their days, the scoreboard, and whether a difference is real.

Not here: single figures such as CRPS or RMSE (core), whole backtests (backtest), what is drawn (report).
Read scoring.py first, then scoreboard.py.
"""
