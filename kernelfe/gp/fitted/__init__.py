"""The fitted free energy: predictions, joint distributions, draws, updates."""
