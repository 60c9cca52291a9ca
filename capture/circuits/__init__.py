"""Circuits as runs: which edges carry a task's behaviour, how sure that is, and whether it holds elsewhere."""
