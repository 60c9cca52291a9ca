"""Sparse dictionaries: autoencoders and transcoders, whose features are directions that few tokens need at a time."""
