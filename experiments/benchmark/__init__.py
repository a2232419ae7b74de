"""Measurements of speed: ours, peers', and the limit."""
