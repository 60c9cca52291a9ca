"""Looking up features among a hundred million rows: a feature's strongest contexts, and the features of a token.

The run is made up: 64 of 4,096 features are active at every token. Rows are read by their key, as the command line and the page do, and the
same is asked in SQL. Both from an open warehouse, each time another feature or token.

    python benchmarks/feature_lookup.py [--examples 12208] [--times 30]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from common import median_ms, parsed, record
from made_text import publish_runs
from made_up import EXAMPLE_TOKENS, blank, example_ids, publish

from warehouse import Warehouse
from warehouse.analysis.feature_contexts import Context, features_of_token, find_encoded, find_feature, top_contexts
from warehouse.catalog.ask import asker

ACTIVE, PER_SLOT = 64, 64
"""Features that are active at a token: one of each 64."""
STRONGEST = """
    SELECT example_id, seq, arg_max(pos, activation), max(activation) FROM feature_tokens
    WHERE run_id = 'encoded' AND sae = 'made' AND feature = {} GROUP BY example_id, seq ORDER BY 4 DESC, 1, 2 LIMIT 50"""
OF_TOKEN = """
    SELECT feature, activation FROM features WHERE run_id = 'encoded' AND sae = 'made' AND example_id = '{}' AND seq = 0 AND pos = {}
    ORDER BY activation DESC"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=12_208)
    parser.add_argument("--times", type=int, default=30)
    args = parsed(parser, examples=200, times=2)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        publish_runs(root, args.examples)
        publish_features(root, args.examples)
        compare(root, args.examples, args.times)


def publish_features(root: Path, examples: int) -> None:
    """Publishes the run `encoded` of `large`."""
    ids, chance = example_ids(examples), np.random.default_rng(0)
    n = examples * EXAMPLE_TOKENS
    slot = chance.integers(0, PER_SLOT, (n, ACTIVE), np.uint8)
    activation = chance.gamma(1.5, 2.0, (n, ACTIVE)).astype(np.float32)
    names = pa.array(ids)

    def rows(table: str, token: np.ndarray, feature: np.ndarray, active: np.ndarray) -> pa.Table:
        of = {"source_run_id": "large", "sae": "made"}
        return blank(
            table,
            **{name: pa.repeat(value, len(token)) for name, value in of.items()},
            layer=pa.array(np.full(len(token), 15, np.int32)),
            example_id=names.take(pa.array(token // EXAMPLE_TOKENS)),
            pos=pa.array((token % EXAMPLE_TOKENS).astype(np.int32)),
            feature=pa.array(feature.astype(np.int32)),
            activation=pa.array(active),
        )

    def by_token() -> Iterator[pa.Table]:
        step = 15_360  # eight row groups
        for first in range(0, n, step):
            here = slice(first, first + step)
            token = np.arange(n)[here].repeat(ACTIVE)
            feature = slot[here].astype(np.int32) + np.arange(ACTIVE) * PER_SLOT
            yield rows("features", token, feature.ravel(), activation[here].ravel())

    def by_feature() -> Iterator[pa.Table]:
        for j in range(ACTIVE):
            order = np.argsort(slot[:, j], kind="stable")
            yield rows("feature_tokens", order, slot[order, j].astype(np.int32) + j * PER_SLOT, activation[order, j])

    about = {"source_run_id": "large", "sae": "made", "side": "dec", "site": "resid.post_mlp", "architecture": "made"}
    sizes = {"n_features": pa.array([ACTIVE * PER_SLOT], pa.int32())}
    dictionary = blank("dictionaries", **{name: pa.array([value]) for name, value in about.items()}, **sizes)
    tables = {"dictionaries": [dictionary], "features": by_token(), "feature_tokens": by_feature()}
    publish(root, "encoded", tables, kind="features", parents=["large"])


def compare(root: Path, examples: int, times: int) -> None:
    """Asks both questions of features and tokens that are drawn anew each time."""
    ids, chance = example_ids(examples), np.random.default_rng(1)
    rows = f"{examples * EXAMPLE_TOKENS * ACTIVE / 1e6:.0f} million rows"
    with Warehouse(root) as wh:
        wh.connection.execute("SET threads = 2")
        encoded = find_encoded(asker(wh), "encoded")

        def feature() -> int:
            return int(chance.integers(ACTIVE * PER_SLOT))

        def token() -> tuple[str, int]:
            return str(chance.choice(ids)), int(chance.integers(EXAMPLE_TOKENS))

        def strongest() -> list[dict]:
            found = find_feature(wh.cached_run, encoded, feature())
            return found.rows.take(pa.array(found.strongest(50))).to_pylist()

        def in_context() -> list[Context]:
            return top_contexts(wh.cached_run, find_feature(wh.cached_run, encoded, feature()), n=50)

        def of_token() -> list[dict]:
            return features_of_token(wh.cached_run, encoded, *token()).to_pylist()

        def strongest_in_sql() -> list[tuple]:
            return wh.sql(STRONGEST.format(feature())).fetchall()

        def of_token_in_sql() -> list[tuple]:
            return wh.sql(OF_TOKEN.format(*token())).fetchall()

        for name, claim, ours, other, target in (
            ("top", "top 50 contexts of a feature", strongest, strongest_in_sql, "20 ms"),
            ("context", "the same with the tokens around them", in_context, strongest_in_sql, "20 ms"),
            ("token", "features of a token", of_token, of_token_in_sql, "5 ms"),
        ):
            assert ours()
            assert other()
            fast, plain = median_ms(ours, times), median_ms(other, times)
            record(
                f"feature_lookup#{name}", f"{claim} among {rows}, by key", "in SQL",
                f"{fast:.1f} ms", f"{plain:.1f} ms", f"{fast:.1f} ms", target,
            )  # fmt: skip


if __name__ == "__main__":
    main()
