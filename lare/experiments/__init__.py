"""Declared grids of runs, their tables and curves."""
