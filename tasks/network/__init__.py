"""Keras architectures, their losses, and the loop that trains them, several members at a time.

Prices, candles and settings of a profile do not belong here: a network sees arrays only.
Read `architectures.py` first, then `trainer.py`.
"""
