"""The command line: one file a group of commands, registered in `main`; what runs no model is in `warehouse/cli`."""
