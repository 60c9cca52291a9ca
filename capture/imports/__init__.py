"""Files of other tools → runs: activation caches, padded stores, hidden states of a server. Nothing in a file is executed."""
