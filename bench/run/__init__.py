"""Rows of a benchmark: planned, run in turns, scored."""
