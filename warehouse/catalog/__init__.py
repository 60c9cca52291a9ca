"""All runs as one DuckDB database: the views, their upkeep, and the questions asked of them; tensors are the storage's."""
