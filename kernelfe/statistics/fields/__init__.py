"""Displacement fields of all atoms: force maps, torques, zero-mean variates, collective variables."""
