"""What users call from Python, one file a group of functions; `capture/__init__.py` exports them, and the commands call them too.

Here are the checks of arguments, progress and order of steps that a notebook and a command line share. The work itself is done in
the folders below.
"""
