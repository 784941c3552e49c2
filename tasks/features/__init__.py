"""From candles to daily variances, sigmas, and the inputs and windows that networks train on.

What a network does with them belongs in `network`, the distribution around a sigma in `profiles`.
Read `volatility.py` first, then `expected_sigma.py` and `inputs.py`.
"""
