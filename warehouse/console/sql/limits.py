"""What a process that answers SQL of the page may use.

DuckDB's own limit covers most of its memory; texts and lists that one function makes are beside it, and the limit on the address
space ends those. A process that has opened the views has up to 1.7 GB of address space, and touches 0.15 of them.
"""

from __future__ import annotations

import sys

MEMORY_MB = 2000
"""Memory of DuckDB's operators: hash tables, sorts, files."""
ADDRESS_SPACE = 4 * 2**30
"""Bytes of the process, of everything."""
TOO_MUCH_MEMORY = (
    f"The query needed more memory than a query of the page may have ({MEMORY_MB // 1000} GB), and was stopped."
)

_PROCESSORS = 4
"""Threads of DuckDB and of what waits beside them, at most."""


def limit_process() -> None:
    """Limit this process: its memory, and nothing that it writes to files.

    Where the system has no such limits (Windows, and for memory macOS), the pool's time limit and DuckDB's own settings remain.
    """
    sys.dont_write_bytecode = True
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))


def limit_seconds(seconds: float) -> None:
    """Have the system end this process where it is still at work long after its time, should nobody else do so."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds * _PROCESSORS) + 5
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))
