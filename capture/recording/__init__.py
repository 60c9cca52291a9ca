"""Takes named tensors and rows from the forward passes of a model. Knows neither files on disk nor kinds of jobs."""
