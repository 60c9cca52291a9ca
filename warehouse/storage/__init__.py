"""One run on disk: its paths, manifest, tables and tensors, how they are written and read; other runs are the catalog's."""
