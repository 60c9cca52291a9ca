"""Responses in CSV have their own texts, scores and order, whatever is in them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from synthetic import add_run

from warehouse import Warehouse, exports
from warehouse.errors import UsageError

ODD = 'He said "no",\nand\r\n=1+1; ünï\u2028'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    said, scored, examples, prompts, tokens = [], [], [], [], []
    for i, (polarity, response) in enumerate((("pos", "LOUD"), ("neg", ODD), ("pos", ""))):
        key = {"example_id": f"e{i}", "seq": 0}
        examples.append(key | {"idx": i, "n_seqs": 1, "n_tokens": 2})
        asked = {"prompt": f"Why {i}?", "system": f"Be {polarity}.", "question_idx": i, "instruction_idx": 0}
        said.append(key | asked | {"response": response, "trait": "loud", "polarity": polarity})
        prompts.append(key | {"text": f"<user>Why {i}?</user>{response}"})
        start = len(f"<user>Why {i}?</user>")
        for pos in range(2):
            tokens.append(
                key | {"side": "dec", "pos": pos, "is_response": pos == 1, "char_start": start * pos, "char_end": 0}
            )
        if i < 2:
            scored.append(
                key | {"source_run_id": "said", "trait": "loud", "trait_score": 10.5 * i, "coherence_score": 90}
            )
    tables = {"examples": examples, "responses": said, "prompts": prompts, "tokens": tokens}
    add_run(root, "said", "trait-responses", tables)
    add_run(root, "judged", "judge", {"judgements": scored}, minute=1, parents=["said"])
    free = {
        "examples": [{"example_id": "f", "n_seqs": 1}],
        "responses": [{"example_id": "f", "prompt": "Q", "response": "A"}],
    }
    add_run(root, "free", "generate", free)
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def test_a_file_a_polarity_in_the_columns_of_the_pipeline(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Warehouse(root) as wh:
        assert exports.responses(wh, "said", out) == {"loud/neg.csv": 1, "loud/pos.csv": 2}
    (neg,) = rows(out / "loud" / "neg.csv")
    assert neg == {
        "question": "Why 1?", "instruction": "Be neg.", "prompt": "<user>Why 1?</user>", "response": ODD,
        "trait_score": "10.5", "coherence_score": "90.0",
    }  # fmt: skip
    first, second = rows(out / "loud" / "pos.csv")
    assert (first["response"], first["trait_score"]) == ("LOUD", "0.0")
    assert (second["response"], second["trait_score"], second["coherence_score"]) == ("", "", "")
    index = json.loads((out / "index.json").read_text(encoding="utf-8"))
    assert {f["file"]: f["rows"] for f in index["files"]}["loud/pos.csv"] == [["e0", 0], ["e2", 0]]


def test_responses_without_a_trait_are_one_file(root: Path, tmp_path: Path) -> None:
    with Warehouse(root) as wh:
        assert exports.responses(wh, "free", tmp_path / "out") == {"responses.csv": 1}
    assert rows(tmp_path / "out" / "responses.csv")[0]["prompt"] == "Q"


def test_a_run_without_responses_says_so(root: Path, tmp_path: Path) -> None:
    with Warehouse(root) as wh, pytest.raises(UsageError, match="it has no responses"):
        exports.responses(wh, "judged", tmp_path / "out")
