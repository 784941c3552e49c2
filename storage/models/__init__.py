"""Model bundles, the registry that names them, and the models and states that a backtest keeps.

Not here: training and the choice of the champion (`tasks/training`).
Read first: `bundles.py`, then `registry.py`.
"""
