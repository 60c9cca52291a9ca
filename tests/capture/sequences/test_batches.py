from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from capture.data.text import open_text
from capture.sequences.batches import ONE_LENGTH, group_into_shards, make_batches
from capture.sequences.tokenize import TokenizeOptions, tokenize


def tokenized(tmp_path: Path, tokenizer, lines: list[str], max_len: int | None = None, chunk: bool = False):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return list(tokenize(open_text(str(path), "text").read(), TokenizeOptions(tokenizer, "dec", max_len, chunk)))


def test_tokens_stand_in_the_text_where_their_offsets_say(tmp_path: Path, tokenizer, sample_lines: list[str]) -> None:
    for t in tokenized(tmp_path, tokenizer, sample_lines):
        s = t.sequences[0].sides["dec"]
        text = t.example.text
        # Bytes of one character share its offsets; joined by offsets, the tokens are the text again.
        assert (
            "".join(
                text[i] for i in sorted({i for a, b in zip(s.char_start, s.char_end, strict=True) for i in range(a, b)})
            )
            == text
        )


def test_long_texts_are_cut_and_say_so_or_go_on_as_the_next_seq(tmp_path: Path, tokenizer) -> None:
    text = "the lamp and the sea " * 20
    (whole,) = tokenized(tmp_path, tokenizer, [text])
    n = whole.sequences[0].n_tokens
    (cut,) = tokenized(tmp_path, tokenizer, [text], max_len=16)
    assert cut.truncated and [s.n_tokens for s in cut.sequences] == [16]
    (chunked,) = tokenized(tmp_path, tokenizer, [text], max_len=16, chunk=True)
    assert not chunked.truncated
    assert [s.seq for s in chunked.sequences] == list(range(-(-n // 16)))
    assert np.array_equal(
        np.concatenate([s.sides["dec"].ids for s in chunked.sequences]), whole.sequences[0].sides["dec"].ids
    )
    assert np.array_equal(
        np.concatenate([s.sides["dec"].char_start for s in chunked.sequences]),
        whole.sequences[0].sides["dec"].char_start,
    )


@pytest.mark.parametrize("budget", [1, 40, 100, 10_000])
def test_batches_hold_every_sequence_once_within_the_budget(
    tmp_path: Path, tokenizer, sample_lines: list[str], budget: int
) -> None:
    examples = tokenized(tmp_path, tokenizer, sample_lines, max_len=30, chunk=True)
    found = list(make_batches(examples, budget))
    ids = [(s.example.example_id, s.seq) for b in found for s in b.sequences]
    assert sorted(ids) == sorted((t.example.example_id, s.seq) for t in examples for s in t.sequences)
    assert [t for b in found for t in b.examples] == examples
    for b in found:
        width = max(s.n_tokens for s in b.sequences)
        assert len(b.sequences) == 1 or len(b.sequences) * width <= budget
        padded, mask = b.padded(0)["dec"]
        assert padded.shape == mask.shape == (len(b.sequences), width)
        assert mask.sum() == b.n_tokens
        assert all(
            (m == 1).sum() == s.n_tokens and m[: s.n_tokens].all() for m, s in zip(mask, b.sequences, strict=True)
        )


def test_the_plan_is_the_same_each_time_and_its_mark_tells_of_the_data(
    tmp_path: Path, tokenizer, sample_lines: list[str]
) -> None:
    def plan(lines: list[str]) -> list[tuple[str, list[int]]]:
        found = group_into_shards(make_batches(tokenized(tmp_path, tokenizer, lines), 200), 500)
        return [(s[-1].resume_point, [q.n_tokens for b in s for q in b.sequences]) for s in found]

    assert plan(sample_lines) == plan(sample_lines)
    changed = [*sample_lines[:-1], sample_lines[-1] + "!"]
    assert plan(changed)[0][0] != plan(sample_lines)[0][0]


def test_shards_are_as_large_as_told(tmp_path: Path, tokenizer, sample_lines: list[str]) -> None:
    found = list(make_batches(tokenized(tmp_path, tokenizer, sample_lines), 100))
    groups = list(group_into_shards(found, 300))
    assert [b for g in groups for b in g] == found
    assert all(len(g) == 1 or sum(b.n_tokens for b in g) <= 300 for g in groups)


def test_no_padding_where_padding_would_change_the_model(tmp_path: Path, tokenizer, sample_lines: list[str]) -> None:
    found = list(make_batches(tokenized(tmp_path, tokenizer, sample_lines, max_len=30), 200, ONE_LENGTH))
    assert all(len({s.n_tokens for s in b.sequences}) == 1 for b in found)
    assert any(len(b.sequences) > 1 for b in found)
    assert sum(len(b.sequences) for b in found) == len(sample_lines)
