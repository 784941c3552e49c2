"""Calibration: the online quantile tracker, and its states in the table `calibrator`.

Not here: which quantiles are tracked (profiles), how often intervals covered the outcome (evaluation).
Read quantile_tracker.py first: pure functions; then calibrator_states.py, how outcomes move a chain of states.
"""
