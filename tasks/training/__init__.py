"""Training: what is due, the challenger, the gate, the champion, and how versions are registered.

Not here: how a model is fitted (profiles) or how a network learns (network).
Read policy.py first, with its tests: a pure function over small frozen types.
"""
