"""Kinds of captures, one file each, and what they share: a job, its batches, and running it to a published run."""
