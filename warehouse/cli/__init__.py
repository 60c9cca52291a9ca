"""Commands and their parts that need no model: options, output, SQL, runs, vector tables. Nothing here computes a result."""
