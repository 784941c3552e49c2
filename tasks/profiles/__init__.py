"""Profiles: kinds of models with their settings, our two and a user's own, and the baselines.

Not here: when a model is replaced (training), how a network is trained (network), what is stored (storage).
Read base.py first, the protocol; then article.py, a small model; then calibrated.py.
"""
