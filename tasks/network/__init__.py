"""Keras architectures, their losses, the training loop, and the forward pass of a trained network.

Prices, candles and settings of a profile do not belong here: a network sees arrays only.
Read `architectures.py` first, then `trainer.py`, then `forward.py`.
"""
