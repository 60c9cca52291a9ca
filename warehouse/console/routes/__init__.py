"""The endpoints of the console, one file a view; each is a function of its query parameters and the warehouse."""
