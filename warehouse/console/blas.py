"""One thread for linear algebra in the server's process.

A page asks for many small products: one head's attention, one row. Threads that wait for each other cost such a product more than it
takes, the more so where several requests are at work at once.
"""

from __future__ import annotations


def one_blas_thread() -> None:
    """Have numpy's products run in the thread that asks for them, from now on and in the whole process."""
    import numpy as np  # noqa: F401  (only libraries that are loaded already can be told)
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=1, user_api="blas")
