"""Reading and writing Frames: one module per file format."""
