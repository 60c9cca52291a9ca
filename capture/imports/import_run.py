"""Make a run of traces that another tool wrote: kind `import`, with examples, tokens and tensors as a capture has them.

In go `Traces`; out comes a published run, or nothing. What the file does not tell (weights, a tokenizer, how attention follows from q and k) is
said in the manifest, and nothing is made up for it: there are no predictions, and attention is there where it was stored.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from capture.data.example import Example, Row, Source
from capture.imports.token_texts import KnownTokens, TokenTexts
from capture.imports.traces import TraceExample, Traces
from capture.jobs.in_order import in_order
from capture.jobs.versions import versions
from capture.recording.rows import Rows
from capture.sequences.batches import Batch
from capture.sequences.partition import Partition
from capture.sequences.sequence import TokenizedExample, TokenSequence
from warehouse.catalog.publish import publish
from warehouse.errors import UsageError
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage.blobs import DTYPES
from warehouse.storage.grouping import group_by_size
from warehouse.storage.manifest import Counts, DataInfo, Manifest, SiteInfo, StagedRun
from warehouse.storage.objects import AnyPath
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import RunWriter

KIND = "import"

_SHARD_BYTES = 256 << 20
_EXAMPLE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def run(
    traces: Traces,
    origin: str,
    tokenizer: Any = None,
    *,
    root: AnyPath,
    run_id: str,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Publish traces as a run.

    Args:
        traces: What the file holds.
        origin: The file or folder, as the user named it.
        tokenizer: A tokenizer of transformers for the file's token ids; None: there is none at hand.
        root: The warehouse's folder.
        run_id: The run's name.
        report: Called with the number of texts that are done, and of all.

    Returns:
        The manifest.

    Raises:
        UsageError: A tensor has not the shape that its tokens ask for, or holds NaN or infinity.
        RunExistsError: The run exists already.
    """
    maker = _Maker(traces, origin, tokenizer or KnownTokens())
    identity = RunIdentity(KIND, {"file": str(Path(origin).absolute()), "format": traces.format, "facts": traces.facts})
    with RunWriter(root, run_id, identity.to_dict()) as writer:
        done = 0
        for number, group in enumerate(group_by_size(maker.examples(), maker.size, _SHARD_BYTES)):
            resume_point = maker.data_hash
            if number >= len(writer.done):
                rows: Counter[Key] = Counter()
                for example, _ in group:
                    for s in example.sequences:
                        rows.update(maker.row_counts(s))
                writer.begin_shard({key: rows[key] for key in traces.specs}, traces.specs)
                for batch in in_order(lambda item: maker.recorded(*item), group):
                    writer.put(batch)
                    done += 1
                    report(done, traces.count)
                writer.end_shard(resume_point)
            elif writer.done[number].resume_point != resume_point:
                raise UsageError(
                    f"{origin} is not what it was when the import '{run_id}' began, so it cannot go on. Drop it (traces runs rm {run_id}) "
                    "and run the same command again."
                )
            else:
                done += len(group)
        if not done:
            raise UsageError(f"{origin} holds no text: there is nothing to import.")
        return publish(writer, lambda staged: maker.manifest(run_id, staged))


class _Maker:
    """Makes rows and tensors of texts, and counts them."""

    def __init__(self, traces: Traces, origin: str, tokenizer: Any) -> None:
        self._traces, self._origin = traces, origin
        self._texts, self._rows = TokenTexts(tokenizer), Rows(tokenizer)
        said = traces.facts.get
        own = said("dataset") is None
        self._source = Source(
            traces.name, said("config"), said("split"), origin, lambda: iter(()), has_ids=False, own=own
        )
        self._partition = Partition("")
        self._counts: Counter[str] = Counter()

    def examples(self) -> Iterator[tuple[TokenizedExample, TraceExample]]:
        """Yield the texts as examples with their sequences, without their tensors."""
        seen: Counter[str] = Counter()
        for idx, read in enumerate(self._traces.examples()):
            made = [{side: self._texts.text(ids, s.tokens) for side, ids in s.ids.items()} for s in read.sequences]
            first = next((text for sides in made for text, _ in sides.values()), "")
            text = read.text if read.text is not None else first
            example = Example(self._source, Row(read.source_id, text, read.metadata), text)
            if read.example_id is not None:
                example = _with_id(example, read.example_id)
            seen[example.example_id] += 1
            if (n := seen[example.example_id]) > 1:
                example = Example(self._source, example.row, f"{text}\x1f{n}")
            sequences = [
                TokenSequence(
                    example,
                    seq,
                    {side: tokens for side, (_, tokens) in sides.items()},
                    next((own for own, _ in sides.values() if own != text), None),
                )
                for seq, sides in enumerate(made)
            ]
            for _ in self._partition.select([example]):
                pass
            self._counts.update(examples=1, sequences=len(sequences), tokens=sum(s.n_tokens for s in sequences))
            yield TokenizedExample(idx, example, sequences, False, False), read

    @property
    def data_hash(self) -> str:
        """The hash of the texts that were read so far: after the last, of the data."""
        return self._partition.data_hash

    def row_counts(self, sequence: TokenSequence) -> dict[Key, int]:
        """Return how many rows every tensor has of a sequence."""
        return {
            key: sites.row_count(spec.row_kind, key.side, sequence.lengths) for key, spec in self._traces.specs.items()
        }

    def size(self, item: tuple[TokenizedExample, TraceExample]) -> int:
        """Return how many bytes of tensors a text has."""
        specs = self._traces.specs
        return sum(n * specs[k].stored_row_bytes for s in item[0].sequences for k, n in self.row_counts(s).items())

    def recorded(self, example: TokenizedExample, read: TraceExample) -> RecordedBatch:
        """Read the tensors of a text, and make its rows.

        Returns:
            What the writer takes.

        Raises:
            UsageError: A tensor is missing, is not of the shape that it should have, or not finite.
        """
        parts: dict[Key, list[np.ndarray]] = {key: [] for key in self._traces.specs}
        rows: dict[Key, list[int]] = {key: [] for key in self._traces.specs}
        for sequence, its in zip(example.sequences, read.sequences, strict=True):
            tensors, counts = its.tensors(), self.row_counts(sequence)
            for key, spec in self._traces.specs.items():
                x, expected = tensors.get(key), (counts[key], *spec.row_shape)
                where = f"{self._origin}, text {read.source_id}: {sites.tensor_name(*key)}"
                if x is None or x.shape != expected:
                    raise UsageError(f"{where} has the shape {None if x is None else x.shape}, not {expected}.")
                x = np.asarray(x, DTYPES[spec.dtype])
                if not _is_finite(x):
                    raise UsageError(
                        f"{where} holds NaN or infinity: leave the text out, or save the tensor in a wider dtype."
                    )
                parts[key].append(x)
                rows[key].append(len(x))
        tables = {"examples": self._rows.examples([example])}
        if any(s.n_tokens for s in example.sequences):
            tables |= {
                "tokens": self._rows.tokens(Batch(example.sequences, "")),
                **self._rows.prompts(example.sequences),
            }
        return RecordedBatch(
            [(s.example.example_id, s.seq) for s in example.sequences],
            {key: x[0] if len(x) == 1 else np.concatenate(x) for key, x in parts.items() if x},
            rows,
            tables,
        )

    def manifest(self, run_id: str, staged: StagedRun) -> Manifest:
        """Return the manifest of the run."""
        traces = self._traces
        groups: dict[tuple[str, str, Any], list[Key]] = {}
        for key, spec in traces.specs.items():
            groups.setdefault((key.side, key.site, spec), []).append(key)
        dtypes = Counter(spec.dtype for spec in traces.specs.values())
        return Manifest(
            run_id=run_id,
            kind=KIND,
            created_at=staged.created_at,
            seconds=staged.seconds,
            model=traces.model.model_copy(update={"missing": self._missing()}),
            data=DataInfo(
                dataset=self._source.dataset,
                config=self._source.config,
                split=self._source.split,
                source=self._origin,
                hash=self.data_hash,
            ),
            options={
                "format": traces.format,
                "from": traces.facts,
                "left_out": list(traces.left_out),
                "tokenizer": None
                if isinstance(self._texts.tokenizer, KnownTokens)
                else str(self._texts.tokenizer.name_or_path),
            },
            store_dtype=dtypes.most_common(1)[0][0] if dtypes else "F32",
            sites=[
                SiteInfo(
                    side="enc" if side == "enc" else "dec",
                    site=site,
                    layers=[k.layer for k in sorted(keys, key=lambda k: k.layer or 0)],
                    rows=spec.row_kind,
                    row_shape=list(spec.row_shape),
                    dtype=spec.dtype,
                )
                for (side, site, spec), keys in groups.items()
            ],
            counts=Counts(
                examples=self._counts["examples"],
                sequences=self._counts["sequences"],
                tokens=self._counts["tokens"],
                predictions=0,
                truncated=0,
                rows=staged.rows,
            ),
            bytes=sum(f.bytes for f in staged.files),
            files=staged.files,
            versions=versions(),
        )

    def _missing(self) -> dict[str, str]:
        """Return the sites that the file has nothing of, so that messages say so in the place of how to capture them."""
        has = {key.site for key in self._traces.specs}
        return {site: "the file that was imported has none" for site in sites.STORED_ORDER if site not in has}


def _with_id(example: Example, example_id: str) -> Example:
    """Return an example under the id that it has in the warehouse that its file is from."""
    if not _EXAMPLE_ID.fullmatch(example_id):
        return example
    own = replace(example)
    object.__setattr__(own, "example_id", example_id)
    return own


def _is_finite(x: np.ndarray) -> bool:
    """Whether no value is NaN or infinite, by the bits of the exponent."""
    bits = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000}[x.dtype.name]
    whole: np.ndarray = x.view(f"u{x.dtype.itemsize}")
    return not (np.bitwise_and(whole, bits) == bits).any()
