"""Saved queries and views over one run of ten million tokens, against the same questions over its Parquet files.

The plain way reads the files of the runs that the question is about, with the joins that it needs and no others, and chooses rows
before it joins texts to them. Both must answer alike. CPU seconds of two threads, in turns. The runs are made up, as
`made_text.py` says; lens, projection and the second model are of a tenth of the tokens. Saved queries that are not here are about
questions, pairs of prompts or circuits.

    python benchmarks/questions_at_size.py [--examples 78125] [--rounds 3]
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
from common import parsed, record
from made_text import publish_runs
from made_up import EXAMPLE_TOKENS

from warehouse import Warehouse
from warehouse.catalog.saved_queries import find_query
from warehouse.schema.quoting import sql_path
from warehouse.storage import paths

RUNS = {"large": "", "other": "other_", "lens": "", "projected": ""}
"""Each run, and what stands before the names of its tables in the plain questions."""
VARIABLES = {"run": "large", "other_run": "other"}
OF_VIEW = {
    "worst ten of token_texts": """
        SELECT token, loss, text[greatest(char_start - 39, 1) : char_end + 40]
        FROM (SELECT * FROM next_token WHERE run_id = 'large' ORDER BY loss DESC, example_id, seq, pos LIMIT 10) AS worst
        JOIN token_texts USING (run_id, example_id, seq, pos) ORDER BY loss DESC, example_id, seq, pos""",
    "loss by tag of token_diagnostics": """
        SELECT true_upos, count(loss), avg(loss) FROM token_diagnostics WHERE run_id = 'large' GROUP BY true_upos ORDER BY true_upos""",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=78_125)
    parser.add_argument("--rounds", type=int, default=3)
    args = parsed(parser, examples=200, rounds=1)
    with tempfile.TemporaryDirectory() as folder:
        publish_runs(Path(folder), args.examples)
        found = compare(Path(folder), args.rounds)
    tokens = f"one run of {args.examples * EXAMPLE_TOKENS / 1e6:.0f} million tokens"
    saved = {name: times for name, times in found.items() if name not in OF_VIEW}
    worst = max(saved, key=lambda name: saved[name][0] / saved[name][1])
    claims = {f"the worst of {len(saved)} saved queries ({worst})": worst} | {name: name for name in OF_VIEW}
    for claim, name in claims.items():
        ours, plain = found[name]
        record(f"questions_at_size#{claim.split()[0]}", f"{claim}, {tokens}", "the same over its Parquet files",
               f"{ours:.2f} s of CPU", f"{plain:.2f} s of CPU", f"{ours / plain:.1f} times its CPU", "at most 3 times")  # fmt: skip


def compare(root: Path, rounds: int) -> dict[str, tuple[float, float]]:
    """Median CPU seconds of each question, ours and the plain way."""
    found = {}
    with Warehouse(root) as wh, duckdb.connect() as con:
        for database in (wh.connection, con):
            database.execute("SET threads = 2; SET memory_limit = '4GB'")
        for run, before in RUNS.items():
            for file in paths.run_dir(root, run).glob("*/*.parquet"):
                con.execute(
                    f"CREATE VIEW {before}{file.parent.name} AS FROM read_parquet({sql_path(file)}, hive_partitioning = false)"
                )
        for name, text in plain_questions().items():

            def ours(name: str = name) -> list[tuple]:
                if name in OF_VIEW:
                    return wh.sql(OF_VIEW[name]).fetchall()
                named = set(VARIABLES).intersection(find_query(name).variables)
                return wh.ask(name, **{v: VARIABLES[v] for v in named}).fetchall()

            def plain(text: str = text) -> list[tuple]:
                return con.sql(text).fetchall()

            if not same(mine := ours(), theirs := plain()):
                raise SystemExit(f"{name}: the answers differ:\n{mine[:3]}\n{theirs[:3]}")
            times = [(cpu(ours), cpu(plain)) for _ in range(rounds)]
            found[name] = statistics.median(a for a, _ in times), statistics.median(b for _, b in times)
            print(
                f"{name:32} {found[name][0]:8.3f} {found[name][1]:8.3f} {found[name][0] / found[name][1]:6.1f}",
                flush=True,
            )
    return found


def plain_questions() -> dict[str, str]:
    """Name of a question → SQL over the Parquet files, from the file beside this one."""
    text = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- name: (.+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def cpu(work: Callable[[], object]) -> float:
    """Seconds of CPU of all threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


def same(ours: list[tuple], plain: list[tuple]) -> bool:
    """Whether two answers are alike: numbers but for their last digits, since threads add in any order."""

    def close(a: object, b: object) -> bool:
        return bool(np.isclose(a, b, rtol=1e-3, atol=2e-3)) if isinstance(a, float) and b is not None else a == b

    return len(ours) == len(plain) and all(
        len(a) == len(b) and all(map(close, a, b)) for a, b in zip(ours, plain, strict=True)
    )


if __name__ == "__main__":
    main()
