"""The warehouse on a Spark session: the same tables and views, and tensors read by executors."""
