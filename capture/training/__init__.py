"""Fine-tuning a model on a data set, and stored vectors as training batches. Reading data sets belongs to `data`."""
