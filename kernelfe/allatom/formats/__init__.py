"""Reading of all-atom trajectories: one module per file format."""
