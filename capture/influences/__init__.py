"""Influence: which source tokens, through which heads, MLPs and the embedding, made a prediction, from what a run has stored."""
