"""Checkpoints of a run: complete or absent, resumed bit by bit."""
