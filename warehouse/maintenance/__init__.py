"""Changes of whole runs that are published: merging the parts of a run, and removing runs and what killed processes left behind."""
