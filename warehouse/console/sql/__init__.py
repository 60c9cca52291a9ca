"""SQL of the page: what may be asked (`door`), and the processes that answer it and are killed at their limit (`pool`, `child`)."""
