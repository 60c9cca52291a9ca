"""Turns texts into token sequences, and sequences into batches. Knows tokenizers, but runs no model and writes no file."""
