"""Bits per byte: what predictions cost by byte of the text that they are of, which tokenizers share."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from synthetic import add_run, alter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from capture.model import loading
from warehouse import Warehouse
from warehouse.storage.losses import predicted_bytes
from warehouse.storage.paths import MANIFEST
from warehouse.validation.validate import validate

TEXT = "The café's lamp — 灯 🙂 burned."
PLAIN = "The keeper lit the lamp at night, and slept."


def test_a_model_that_knows_nothing_pays_eight_bits_for_every_byte(
    tmp_path: Path, make_llama: Callable[..., LlamaForCausalLM], capture_tiny: Callable
) -> None:
    """A token a byte, all as likely: characters of several bytes, whose tokens share their offsets, count by their bytes. In
    sequences of their own (--chunk), and read again as context (--stride), each byte still counts once."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    octets = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    octets.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    octets.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=octets).save_pretrained(tmp_path / "bytes")
    model = make_llama(vocab_size=256)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.save_pretrained(tmp_path / "bytes")
    loaded = loading.load(str(tmp_path / "bytes"), device="cpu")
    (tmp_path / "all.txt").write_text(f"{TEXT}\n{PLAIN}\n", encoding="utf-8")
    (tmp_path / "plain.txt").write_text(f"{PLAIN}\n", encoding="utf-8")
    whole = capture_tiny(tmp_path, "whole", text=tmp_path / "all.txt", loaded=loaded, capture="none")
    chunks = capture_tiny(
        tmp_path, "chunks", text=tmp_path / "plain.txt", loaded=loaded, capture="none", chunk=True, max_len=9
    )
    again = capture_tiny(
        tmp_path, "again", text=tmp_path / "plain.txt", loaded=loaded, capture="none", stride=4, max_len=9
    )
    assert whole.meta.counts.predicted_bytes == len((TEXT + PLAIN).encode()) - 2
    assert chunks.meta.counts.predicted_bytes == len(PLAIN) - chunks.meta.counts.sequences
    assert again.meta.counts.predicted_bytes == len(PLAIN) - 1
    with Warehouse(tmp_path) as wh:
        bits = wh.sql("SELECT bits_per_byte FROM runs UNION ALL SELECT bits_per_byte FROM sequence_losses").fetchall()
    assert [b for (b,) in bits] == pytest.approx([8.0] * len(bits), abs=1e-5)
    alter(again.path / MANIFEST, lambda run: run["counts"].update(predicted_bytes=40))
    (counts,) = (check for check in validate(again.path) if check.name == "counts")
    assert counts.detail == f"the predictions are of {len(PLAIN) - 1} bytes of text, not 40"


@pytest.mark.slow
def test_every_token_has_the_text_that_is_its_own(tmp_path: Path) -> None:
    """Offsets written down as tokenizers tell them: with a BOS, without the white space, as many bytes, in prompts, in targets."""

    def run(
        name: str, spans: list[tuple[int, int] | None], first: int = 0, text: str = TEXT, **more: object
    ) -> int | None:
        key = {"example_id": "e", "side": "dec"}
        tokens = [
            key | {"pos": i, "is_special": s is None and not more.get("blind")} | ({"char_start": s[0], "char_end": s[1]} if s else {})
            for i, s in enumerate(spans)
        ]  # fmt: skip
        rows = {
            "examples": [{"example_id": "e", "text": text, "metadata": '{"said": "Ça va?"}'}],
            "tokens": tokens,
            "next_token": [{"example_id": "e", "pos": i, "loss": 2.0} for i in range(first, len(spans) - 1)],
            "prompts": [{"example_id": "e", "text": more["prompt"]}] if "prompt" in more else [],
        }
        options = {"target_column": "said"} if "target" in more else {}
        folder = add_run(tmp_path, name, "next-token", rows, options=options)
        with Warehouse(tmp_path) as wh:
            found = wh.sql(
                f"SELECT predictions, loss, text_bytes, bits_per_byte FROM sequence_losses WHERE run_id = '{name}'"
            )
            ((n, loss, size, bits),) = found.fetchall()
        assert (n, loss) == (len(spans) - 1 - first, 2.0 * n)
        assert bits == (pytest.approx(loss / math.log(2) / size) if size else None)
        assert predicted_bytes(folder, options.get("target_column")) == size
        return size

    assert run("plain", [(0, 3), (3, 8), (8, 10)]) == len(" café's".encode())  # "The", " café", "'s"
    assert run("trimmed", [(0, 3), (4, 8), (8, 10)]) == len(" café's".encode())
    assert run("bos", [None, (0, 3), (3, 8), None]) == len("The café".encode())  # and an EOS, which is paid for
    assert run("octets", [(0, 7), (7, 8), (7, 8), (8, 10)]) == len("é's".encode())
    assert run("context", [(0, 3), (3, 8), (8, 10), (10, 15)], first=2) == len(" lamp")
    assert run("chunk", [None, (4, 8), (8, 10)]) == len("café's".encode())
    assert run("prompt", [(0, 2), (2, 5)], prompt="Ja, 灯!") == len(", 灯".encode())
    assert run("target", [None, (0, 2), (2, 6)], target=True) == len("Ça va?".encode())
    assert run("nothing", [None, None]) == 0
    assert run("blind", [None, None, None], blind=True) is None
