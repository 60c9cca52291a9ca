"""Reads data sets, one file each, and texts and prompts of a user's own: all yield the same `Example`. Knows nothing of models."""
