"""A folder of JSON documents that token-level viewers read: attention, a logit lens, projections on traits.

    FOLDER/index.json                                       which run, and the documents
    FOLDER/attention/EXAMPLE-SEQ.json
    FOLDER/logit_lens/EXAMPLE-SEQ.json
    FOLDER/projections/TRAIT/METHOD-COMPONENT-L15/EXAMPLE-SEQ.json

What is in a document: `attention_documents`, `lens_documents`, `projection_documents`. Names follow from the run's keys, so that the
same sequence has the same name in every export.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from warehouse.catalog.ask import asker
from warehouse.errors import NotFoundError, UsageError
from warehouse.exports.attention_documents import attention_document
from warehouse.exports.chosen import ExportedSequence, choose_examples, exported_side, sequences
from warehouse.exports.json_text import to_json
from warehouse.exports.lens_documents import LensDocuments
from warehouse.exports.lineage import lineage
from warehouse.exports.projection_documents import ProjectionDocuments, projected_vectors
from warehouse.exports.target import INDEX, new_folder, safe_name
from warehouse.storage.paths import run_id_of
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

KINDS = ("attention", "lens", "projections")
"""The kinds of documents."""
_FOLDERS = {"attention": "attention", "lens": "logit_lens", "projections": "projections"}
_AT_ONCE = 16
"""Sequences whose rows are held at once."""
_LENSES = """
SELECT run_id FROM runs WHERE kind = 'lens' AND list_contains(parents, ?) ORDER BY created_at DESC, run_id DESC LIMIT 1
"""


def viewer(
    wh: Warehouse,
    run: str,
    folder: str | Path,
    *,
    kinds: Sequence[str] = (),
    examples: Sequence[str] = (),
    where: str | None = None,
    force: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Write JSON documents of a run for token-level viewers.

    Example:
        exports.viewer(wh, "answers", "pages/answers", where="idx < 100")

    Args:
        wh: The warehouse.
        run: The run that read the texts; its newest lens and its newest projection on each trait are used.
        folder: The folder that is written.
        kinds: Of `attention`, `lens` and `projections`; none: all that there are.
        examples: Ids of examples, or beginnings of them; none: all.
        where: A SQL condition on the columns of the table `examples`.
        force: Whether to replace an export that is there.
        report: Called with the sequences that are done, and all of them, over all kinds.

    Returns:
        How many documents of each kind were written.

    Raises:
        UsageError: The run has nothing of a kind that is asked for, no example is chosen, or the folder is there.
        NotFoundError: There is no such run or kind.
    """
    store = wh.run(run)
    sources = _sources(wh, store, kinds)
    chosen = choose_examples(wh, store, examples, where)
    side = exported_side(store)
    if "attention" in sources:
        chosen_attention = [e for e in chosen if store.keeps(e)]
    total = sum(len(chosen_attention if kind == "attention" else chosen) for kind in sources)
    listed: list[dict[str, Any]] = []
    done = 0
    with new_folder(Path(folder), wh.root, force=force) as written:
        for kind, documents in sources.items():
            of = chosen_attention if kind == "attention" else chosen
            last = ""
            for sequence, name, content in documents(sequences(store, of, side)):
                path = Path(_FOLDERS[kind]) / name / f"{safe_name(sequence.name)}.json"
                (written / path).parent.mkdir(parents=True, exist_ok=True)
                with (written / path).open("wb") as f:
                    f.writelines(content)
                listed.append(_entry(kind, path, sequence))
                done += sequence.example_id != last
                last = sequence.example_id
                report(done, total)
        if not listed:
            raise UsageError(f"There is nothing to export: these examples have no {' and no '.join(sources)}.")
        (written / INDEX).write_bytes(to_json(lineage(store) | {"format": "viewer", "documents": listed}, indent=True))
    return {kind: sum(x["kind"] == kind for x in listed) for kind in sources}


_Documents = Callable[[Iterable[ExportedSequence]], Iterator[tuple[ExportedSequence, str, Iterable[bytes]]]]
"""Makes documents of sequences: each with the folder that it belongs in, and its JSON in pieces."""


def _sources(wh: Warehouse, store: TraceStore, kinds: Sequence[str]) -> dict[str, _Documents]:
    """Return what makes the documents of each kind that is asked for.

    Raises:
        NotFoundError: There is no such kind.
        UsageError: The run has nothing for a kind that is asked for, or for any.
    """
    run = run_id_of(store.path)
    for kind in kinds:
        if kind not in KINDS:
            raise NotFoundError("kind of document", kind, KINDS)
    lenses = asker(wh)(_LENSES, run)["run_id"].to_pylist()
    vectors = projected_vectors(wh, run)
    missing = {
        "attention": None
        if "attn" in store.sites
        else "has no attention: capture it with --capture attn, or qkv where that determines it",
        "lens": None if lenses else f"has no logit lens: traces lens {run}",
        "projections": None if vectors else f"was not projected on a trait: traces trait project {run}",
    }
    for kind in kinds:
        if missing[kind]:
            raise UsageError(f"Run '{run}' {missing[kind]}.")
    found = [kind for kind in KINDS if (kind in kinds if kinds else not missing[kind])]
    if not found:
        raise UsageError(f"Run '{run}' has nothing to export: it {', it '.join(filter(None, missing.values()))}.")
    side = exported_side(store)

    def attention(of: Iterable[ExportedSequence]) -> Iterator[tuple[ExportedSequence, str, Iterable[bytes]]]:
        for sequence in of:
            yield sequence, "", attention_document(store, sequence, side)

    def lens(of: Iterable[ExportedSequence]) -> Iterator[tuple[ExportedSequence, str, Iterable[bytes]]]:
        made = LensDocuments(wh.run(lenses[0]), run)
        for some in _in_parts(of):
            for sequence, content in made.documents(some):
                yield sequence, "", [content]

    def projections(of: Iterable[ExportedSequence]) -> Iterator[tuple[ExportedSequence, str, Iterable[bytes]]]:
        made = [(v, ProjectionDocuments(store, run, wh.run(v.run), v)) for v in vectors]
        for some in _in_parts(of):
            for vector, documents in made:
                for sequence, content in documents.documents(some):
                    yield sequence, f"{safe_name(vector.trait)}/{safe_name(vector.name)}", [content]

    makers = {"attention": attention, "lens": lens, "projections": projections}
    return {kind: makers[kind] for kind in found}


def _in_parts(of: Iterable[ExportedSequence]) -> Iterator[list[ExportedSequence]]:
    """Yield sequences, some at a time."""
    rest = iter(of)
    while some := list(islice(rest, _AT_ONCE)):
        yield some


def _entry(kind: str, path: Path, sequence: ExportedSequence) -> dict[str, Any]:
    """Return what the index says of a document."""
    return {
        "kind": kind,
        "file": path.as_posix(),
        "example_id": sequence.example_id,
        "seq": sequence.seq,
        "n_tokens": len(sequence.tokens),
    }
