"""RunTables: the small tables of one run, read from its folder alone.

In goes the folder of a published run. Out come the rows of its Parquet tables: as answers to SQL over this run alone
(`query`), as a data frame of its texts (`tokens`), or as the encoding of one sequence (`encodings`). A table that cannot be
read raises CorruptRunError, whichever library noticed. Tensors are for `StoredTensors` and `TraceStore`, which build on this.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.errors import CorruptRunError, NotFoundError, StoreError, UsageError, first_line
from warehouse.schema import sites
from warehouse.schema.arrow import arrow_schema
from warehouse.schema.quoting import sql_all_columns, sql_no_rows, sql_parquet, sql_text
from warehouse.schema.tables import STORED
from warehouse.storage import paths
from warehouse.storage.manifest import Manifest
from warehouse.storage.objects import AnyPath, any_path
from warehouse.storage.sorted_table import SortedTable
from warehouse.storage.token_frame import token_frame_sql

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

_NEAR = 100
"""Ids on either side of one that is not there, among which the nearest are looked for."""


class RunTables:
    """The manifest and the tables of a published run."""

    def __init__(self, folder: str | AnyPath) -> None:
        """Open a run from its folder.

        Args:
            folder: The run's folder; it need not be in a warehouse, or have its old name.

        Raises:
            CorruptRunError: The folder is not a run, or its manifest is damaged.
            NewerSchemaError: A newer version of this package wrote the run.
        """
        self.path = any_path(folder)
        self.meta = Manifest.read(self.path)
        self._sorted: dict[str, SortedTable] = {}

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """A row an example (a row a chunk under --chunk or a sample, a row a side in an encoder-decoder), in the data's order.

        Every run has `idx`, `example_id`, `seq`, `side` and `text`, and as lists `input_ids`, `tokens` and `offsets` (first
        character, one past the last), and for every position with a next token `pred_ids`, `correct` and `losses` (nats).
        Numbers, letters and lists are those of the tables `next_token`, `choices` and `mcq_predictions`. A value that there is
        not is NA.

        A run that predicts next tokens has these too, of the last prediction of the row's own sequence that there is a token to
        compare with: it is made from the token before the last. NA in a sequence of one token; a text in chunks has one in each
        of its rows, and the text's own last in the last of them.

        - `next_pos`: the position that it is made from; the token predicted stands at `next_pos + 1`, the end of `input_ids`
        - `next_true_id`, `next_true_prob`: the token that stands there, and its probability
        - `next_pred_id`, `next_pred_prob`: the most probable token, and its probability
        - `next_correct`: whether the two are the same
        - `next_entropy`: entropy over the whole vocabulary, nats
        - `next_topk_ids`, `next_topk_tokens`, `next_topk_probs`: the k most probable tokens, most probable first

        A run of multiple-choice questions has a row a question. Where each choice was a sequence of its own, `input_ids`,
        `tokens` and `offsets` are lists of those of each choice.

        - `label_idx`: place of the right choice, 0-based; NA, never -1, where the key is not known
        - `pred_idx`, `pred_label`: place of the predicted choice, which is a `choice_idx` of `mcq_attn` and the like; its letter
        - `is_correct`: whether the two are the same; NA where the key is not known
        - `choice_logits`: the score that decides, by choice: the logit of the letter or of the multiple-choice head, else the
          log-probability of the text in nats, or that by byte
        - `choice_probs`: its softmax over the choices
        """
        choices = bool(self._table_files("mcq_predictions"))
        query = token_frame_sql(
            self.meta.model.side,
            predictions=bool(self._table_files("next_token")),
            questions=choices,
            sequence_per_choice=choices and self.query("SELECT max(n_seqs) > 1 FROM examples").fetchall()[0][0],
        )
        answer = self.query(query)
        with self._damage_as_error("tables"):
            return answer.df()

    def query(self, query: str, params: list[Any] | None = None) -> duckdb.DuckDBPyRelation:
        """Ask this run alone, in SQL over its tables.

        Args:
            query: SQL that names tables as the views do; rows have a `run_id`, as there.
            params: Values for each `?` in the query.

        Returns:
            The answer as a DuckDB relation: `.df()`, `.arrow()`, `.fetchall()`.
        """
        return self._database.cursor().sql(query, params=params)

    @cached_property
    def _database(self) -> duckdb.DuckDBPyConnection:
        """A database of views over the run's tables."""
        from warehouse.storage.duckdb_session import connect

        con = connect(self.path)
        run_id = sql_text(paths.run_id_of(self.path.absolute()))
        for name, table in STORED.items():
            files, columns = self._table_files(name), table.file_columns
            rows = f"({sql_all_columns(columns, sql_parquet(files)) if files else sql_no_rows(columns)})"
            with self._damage_as_error(name):
                con.execute(f"CREATE VIEW {name} AS SELECT *, {run_id} AS run_id FROM {rows}")
        return con

    def encodings(self, example_id: str, seq: int = 0, *, side: str | None = None) -> dict[str, Any]:
        """Return the tokens of a sequence as a tokenizer's output has them.

        Args:
            example_id: The example.
            seq: Which of its sequences.
            side: `dec` or `enc`; the model's own side where it is left out.

        Returns:
            `input_ids` (T,); `attention_mask` (T,), all ones; `offset_mapping` (T, 2), characters, -1 where a token has no
            place in the text; `tokens`, a list of T strings; and where the model was given them, `token_type_ids` (T,).
        """
        side = self.check_side(side)
        columns = ["token_id", "token", "char_start", "char_end", "token_type_id"]
        rows = self._sequence_rows("tokens", columns, example_id, seq, side)
        if not len(rows):
            self.check_sequence(example_id, seq)
        offsets = [rows[c].fill_null(-1).to_numpy() for c in ("char_start", "char_end")]
        return {
            "input_ids": rows["token_id"].to_numpy(),
            "attention_mask": np.ones(len(rows), np.int64),
            "offset_mapping": np.stack(offsets, axis=1),
            "tokens": rows["token"].to_pylist(),
            **({} if rows["token_type_id"].null_count else {"token_type_ids": rows["token_type_id"].to_numpy()}),
        }

    def rows_with(self, table: str, columns: Sequence[str], equal: Mapping[str, str | int]) -> pa.Table:
        """Return some columns of the rows of a table that have these values in key columns, reading little else.

        Args:
            table: The table.
            columns: Which columns; strings come as codes into a dictionary.
            equal: Values by column, of the first columns of the table's key.

        Returns:
            The rows, in the order of the key.
        """
        with self._damage_as_error(table):
            return self._table(table).rows_with(columns, equal)

    def rows_of(self, table: str, columns: Sequence[str], example_ids: Collection[str]) -> pa.Table:
        """Return some columns of the rows of several examples, in the order of the table's key, reading little else.

        Args:
            table: The table, whose key begins with the example.
            columns: Which columns, `example_id` among them.
            example_ids: The examples.
        """
        with self._damage_as_error(table):
            return self._table(table).rows_of(columns, example_ids)

    def find_example(self, beginning: str) -> str:
        """Return the id of the one example whose id begins so.

        Raises:
            UsageError: Several ids begin so.
            NotFoundError: None does; the message lists the nearest ids.
        """
        with self._damage_as_error("examples"):
            matches = [e for e in self._table("examples").ids_near(beginning, 0, 5) if e.startswith(beginning)]
        if not matches:
            raise self._no_example(beginning)
        if len(matches) > 1 and matches[0] != beginning:
            raise UsageError(f"Several examples begin with {beginning}: {', '.join(matches)}.")
        return matches[0]

    def check_sequence(self, example_id: str, seq: int) -> None:
        """Check that the run has an example and that sequence of it.

        Raises:
            NotFoundError: It has not; the message lists the nearest ids.
        """
        n = self._count_sequences(example_id)
        if not 0 <= seq < n:
            raise NotFoundError("seq", seq, range(min(n, 1000)), f"(example {example_id})")

    def _count_sequences(self, example_id: str) -> int:
        """Return the number of an example's sequences, at least 1.

        Raises:
            NotFoundError: The run does not have the example; the message lists the nearest ids.
        """
        rows = self._example_rows("examples", ["n_seqs"], example_id)
        if not len(rows):
            raise self._no_example(example_id)
        return max(1, rows["n_seqs"][0].as_py())

    def _no_example(self, example_id: str) -> NotFoundError:
        """Return the error for an example that the run does not have, with ids near to it."""
        with self._damage_as_error("examples"):
            near = self._table("examples").ids_near(example_id, _NEAR, _NEAR)
        return NotFoundError("example", example_id, near, f"(run '{self.meta.run_id}')")

    def _table(self, name: str) -> SortedTable:
        """Return a table, to be read by its key."""
        if name not in self._sorted:
            self._sorted[name] = SortedTable(self._table_files(name), arrow_schema(name))
        return self._sorted[name]

    def _table_files(self, table: str) -> list[AnyPath]:
        """Return the files with a table's rows.

        Raises:
            CorruptRunError: One of them is missing.
        """
        files = [self.path / path for path in self.meta.file_infos if path.startswith(f"{table}/")]
        for file in files:
            if not file.is_file():
                raise CorruptRunError(f"{file} is missing{self._advice}")
        return files

    def _example_rows(self, table: str, columns: list[str], example_id: str) -> pa.Table:
        """Return an example's rows of a table."""
        with self._damage_as_error(table):
            return self._table(table).rows(example_id, columns)

    def _sequence_rows(self, table: str, columns: list[str], example_id: str, seq: int, side: str) -> pa.Table:
        """Return a sequence's rows of a table."""
        rows = self._example_rows(table, ["seq", "side", *columns], example_id)
        return rows.filter((pc.field("seq") == seq) & (pc.field("side") == side))

    @contextmanager
    def _damage_as_error(self, table: str) -> Iterator[None]:
        """Raise CorruptRunError in place of what a library raises over a damaged file."""
        try:
            yield
        except StoreError:
            raise
        except _reader_errors() as e:
            raise CorruptRunError(f"{self.path / table} cannot be read: {first_line(e)}{self._advice}") from None

    @property
    def _advice(self) -> str:
        """What to do about a damaged file, as the end of a message."""
        return f" (traces runs validate {paths.run_id_of(self.path)})"

    def check_side(self, side: str | None) -> str:
        """Return `side`, or the model's own side for None.

        Raises:
            NotFoundError: There is no side of that name.
            UsageError: The model does not have that side.
        """
        model = self.meta.model
        chosen = side or model.side
        if chosen not in sites.SIDES:
            raise NotFoundError("side", chosen, sites.SIDES)
        if chosen == "dec" and model.side == "enc":
            raise UsageError(f"Run '{self.meta.run_id}' has no decoder side: {model.architecture} is an encoder.")
        if chosen == "enc" and model.side == "dec" and model.encoder is None:
            raise UsageError(f"Run '{self.meta.run_id}' has no encoder side: {model.architecture} is a decoder.")
        return chosen


def _reader_errors() -> tuple[type[Exception], ...]:
    """Return what libraries raise over a damaged file; called when something was raised, since DuckDB takes a while to import."""
    import duckdb

    return (OSError, pa.ArrowException, UnicodeDecodeError, duckdb.Error)
