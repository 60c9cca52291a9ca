"""Tasks: pairs of prompts, one clean and one with something changed, whose answers are known."""
