"""Logs of evaluations, one file a format, and what opens any of them."""
