"""Backtest: what the forecasts would have been, day after day, compared with the baselines and outcomes.

Not here: how a model is trained or judged (profiles, training), the day's own scores (evaluation).
Read plan.py first, then walk_forward.py: folds, each by the functions of the day.
"""
