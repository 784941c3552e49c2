"""Forecast: a model and a history to a forecast, and its rows in the tables, each exactly once.

Not here: how a model predicts (profiles), quantile offsets (calibration), what is drawn of it (report).
Read publish.py first: the run key, then make_forecast.
"""
