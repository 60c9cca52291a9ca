"""Everything that runs a model: text in, traces out. Imports `warehouse`, never the other way."""
