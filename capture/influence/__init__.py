"""Which tokens, heads and MLPs made a prediction: decompositions of stored states, as runs of their own."""
