"""Comparisons: where two models that read the same texts differ, from what their runs have stored."""
