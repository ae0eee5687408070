"""Fitted models on disk: writing, reading and checking them."""
