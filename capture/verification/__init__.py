"""Checks that what was captured is what the model computes: of a model before a capture, of a run after it."""
