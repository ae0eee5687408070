"""Sparse conditioning: inducing environments and streamed normal equations."""
