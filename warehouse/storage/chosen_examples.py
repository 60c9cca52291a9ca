"""Which examples of a run are read (`--sample`), and of which of them tensors are kept (`--keep-every`).

Both follow from an example's id alone, 16 hex digits of a hash: they are the same examples in every run, part and process, and for
every model. A larger sample holds a smaller one, and what is kept of every 10 is among what is kept of every 5.
"""

from __future__ import annotations


def in_sample(example_id: str, share: float) -> bool:
    """Return whether an example is in a share, 0 to 1, of all examples."""
    return int(example_id, 16) < share * (1 << 64)


def keeps_tensors(example_id: str, every: int) -> bool:
    """Return whether tensors of an example are kept, of one example in `every`."""
    return every == 1 or int(example_id, 16) % every == 0


def keeps_tensors_sql(every: int) -> str:
    """Return the same as a SQL condition on `example_id`."""
    return "true" if every == 1 else f"('0x' || example_id)::UBIGINT % {every} = 0"
