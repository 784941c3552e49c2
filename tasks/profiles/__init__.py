"""Profiles: kinds of models with their settings, our two and a user's own, and the baselines beside them.

Not here: when a model is replaced (training), how a network is trained (network), what is stored (storage).
Read base.py first: the protocol; then article.py, a model on a screen, and calibrated.py.
"""
