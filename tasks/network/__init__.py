"""Keras architectures, their losses, the loop that trains them, and the forward pass of what was trained.

Prices, candles and settings of a profile do not belong here: a network sees arrays only.
Read `architectures.py` first, then `trainer.py`, then `forward.py`.
"""
