"""Solvers: how a Gaussian process is conditioned on labels."""
