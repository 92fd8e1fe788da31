"""How far the negative-binomial CDF is from 50-digit values; `scripts/accuracy.py` is the way in."""
