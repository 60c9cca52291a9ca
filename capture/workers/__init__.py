"""Several processes make one run (`--workers N`): each does a part, as `--part i/n` does, and the driver merges the parts."""
