"""Exact conditioning by preconditioned conjugate gradients, without a Gram matrix."""
