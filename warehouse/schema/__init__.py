"""What exists: the tables and their columns, the sites of a model, and SQL literals; nothing here reads or writes files."""
