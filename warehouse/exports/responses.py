"""CSV files of a run's responses with their scores, in the columns of trait pipelines: one file a polarity.

    FOLDER/index.json                  which run, and of which example each row is
    FOLDER/TRAIT/pos.csv, neg.csv      responses that were asked to show the trait, and not to
    FOLDER/responses.csv               responses of a run that asked for no trait

Columns: `question`, `instruction` (the system message), `prompt` (what the model read, its chat template included), `response`,
`trait_score` (0 to 100), `coherence_score`. Scores are of the newest judge, and empty where none has judged.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from warehouse.catalog.ask import asker
from warehouse.errors import UsageError
from warehouse.exports.chosen import choose_examples
from warehouse.exports.json_text import to_json
from warehouse.exports.lineage import lineage
from warehouse.exports.target import INDEX, new_folder, safe_name
from warehouse.schema.quoting import sql_text
from warehouse.storage.paths import run_id_of
from warehouse.warehouse import Warehouse

COLUMNS = ("question", "instruction", "prompt", "response", "trait_score", "coherence_score")

_RESPONSES = """
WITH first AS (
    SELECT example_id, seq, min(char_start) AS char_start FROM tokens
    WHERE run_id = ? AND side = 'dec' AND is_response AND char_start IS NOT NULL GROUP BY example_id, seq
)
SELECT
    r.example_id, r.seq, r.trait, r.polarity, r.prompt AS question, r.system AS instruction,
    coalesce(left(p.text, first.char_start::BIGINT), p.text, r.prompt) AS prompt, r.response, r.trait_score, r.coherence_score
FROM judged_responses AS r
LEFT JOIN (SELECT example_id, seq, text FROM prompts WHERE run_id = ?) AS p ON p.example_id = r.example_id AND p.seq = r.seq
LEFT JOIN first ON first.example_id = r.example_id AND first.seq = r.seq
WHERE r.run_id = ? AND r.example_id IN ({ids})
ORDER BY r.trait, r.polarity, r.instruction_idx, r.question_idx, r.example_id, r.seq
"""


def responses(
    wh: Warehouse,
    run: str,
    folder: str | Path,
    *,
    examples: Sequence[str] = (),
    where: str | None = None,
    force: bool = False,
) -> dict[str, int]:
    """Write the responses of a run, with their scores, as CSV files.

    Args:
        wh: The warehouse.
        run: A run that generated responses.
        folder: The folder that is written.
        examples: Ids of examples, or beginnings of them; none: all.
        where: A SQL condition on the columns of the table `examples`.
        force: Whether to replace an export that is there.

    Returns:
        The rows of each file.

    Raises:
        UsageError: The run has no responses, no example is chosen, or the folder is there.
    """
    store, run_id = wh.run(run), run_id_of(wh.run(run).path)
    if not store.meta.counts.rows.get("responses"):
        raise UsageError(f"Run '{run}' is of kind {store.meta.kind}: it has no responses.")
    ids = ", ".join(map(sql_text, choose_examples(wh, store, examples, where)))
    rows = asker(wh)(_RESPONSES.format(ids=ids), run_id, run_id, run_id).to_pylist()
    files: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        name = "responses.csv" if row["trait"] is None else f"{row['polarity'] or 'responses'}.csv"
        files.setdefault(name if row["trait"] is None else f"{safe_name(row['trait'])}/{safe_name(name)}", []).append(
            row
        )
    with new_folder(Path(folder), wh.root, force=force) as written:
        for name, some in files.items():
            (written / name).parent.mkdir(exist_ok=True)
            with (written / name).open("w", encoding="utf-8", newline="") as f:
                writer = csv.DictWriter(f, COLUMNS, extrasaction="ignore", lineterminator="\n")
                writer.writeheader()
                writer.writerows(some)
        listed = [
            {"file": name, "trait": some[0]["trait"], "rows": [[x["example_id"], x["seq"]] for x in some]}
            for name, some in files.items()
        ]
        index = lineage(store) | {"format": "responses", "files": listed}
        (written / INDEX).write_bytes(to_json(index, indent=True))
    return {name: len(some) for name, some in files.items()}
