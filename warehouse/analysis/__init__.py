"""What can be computed from stored traces alone: statistics of attention heads, linear probes, intervals. Nothing here runs a model."""
