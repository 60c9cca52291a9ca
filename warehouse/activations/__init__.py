"""The vectors of tokens that SQL picks, read from the shards of runs: filters, locations of rows, batches. Nothing here searches."""
