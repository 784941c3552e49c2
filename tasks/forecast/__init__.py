"""Forecast: from a model and a history to a forecast, whose rows are added to the tables once.

Not here: how a model predicts (profiles), quantile offsets (calibration), how a forecast is shown (report).
Read publish.py first: the run key, then make_forecast.
"""
