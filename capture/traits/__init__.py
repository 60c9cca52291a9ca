"""Traits: definitions, responses and judges, vectors and how good they are, steering, projection; `pipeline` runs all of it."""
