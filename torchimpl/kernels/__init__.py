"""Numerical kernels behind the losses: what is too long or too delicate to stand beside the mathematics."""
