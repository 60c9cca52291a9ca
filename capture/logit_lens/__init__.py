"""The logit lens: what a model would predict after each layer, read from stored states without running its blocks."""
