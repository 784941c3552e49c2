"""Calibration: the online quantile tracker, and its states in the table `calibrator`.

Not here: which quantiles are tracked (profiles), how often intervals cover the outcome (evaluation).
Read first: quantile_tracker.py, pure functions; then calibrator_states.py, the chain of states.
"""
