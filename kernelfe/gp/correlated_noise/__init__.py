"""Noise that is correlated within a frame."""
