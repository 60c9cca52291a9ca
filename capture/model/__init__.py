"""Loads one model and understands it: its blocks, attention, heads and tolerances. Knows nothing of data sets, runs or jobs."""
