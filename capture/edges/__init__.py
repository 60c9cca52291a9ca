"""A model as a graph of nodes and edges: which node reads what, through which port, and what an edge carries."""
