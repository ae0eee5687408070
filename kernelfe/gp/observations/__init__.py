"""From Frames to what a fit conditions on: label sets and their noise."""
