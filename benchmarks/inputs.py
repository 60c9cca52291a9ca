"""Real text, questions and annotated sentences for the benchmarks: the shared data, or the hub's, or the tests' samples, repeated.

All are of the validation part of a known data set. What is read in the place of the shared data is said on the screen, and stands in
every row that a benchmark records.
"""

from __future__ import annotations

import atexit
import random
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from common import HERE, is_small, remark

from capture.data.example import Source
from capture.data.registry import DATASETS, open_data
from warehouse.errors import UsageError

SHARED = HERE.parent.parent / "shared" / "data"
SAMPLES = {"wikitext2": "lighthouse.txt", "csqa": "questions.jsonl", "ud_ewt": "harbour.conllu"}
_PARAGRAPHS, _LENGTHS, _TIMES = 1200, range(3, 16), 700
"""How many paragraphs are made of a sample of text, and of how many of its sentences; how often another sample is repeated."""


def opened(name: str, headings: bool = False) -> Source:
    """The data set, from where it is found."""
    return open_data(name, origin=origin(name), headings=headings)


@cache
def origin(name: str) -> str | None:
    """The file that a data set is read from; None: the hub's data set."""
    if (SHARED / name).is_dir():
        return str(DATASETS[name].find_file(SHARED / name, "validation"))
    if not is_small():
        try:
            open_data(name)
            remark(f"{name} of the hub")
            return None
        except UsageError as e:
            print(e, flush=True)
    remark(f"the tests' sample in the place of {name}, repeated")
    return str(_repeated(HERE.parent / "tests" / "data" / SAMPLES[name]))


def is_sample(name: str) -> bool:
    return origin(name) not in (None, *map(str, (SHARED / name).glob("*")))


@cache
def model_name() -> str:
    """SmolLM2; at the smallest size the folder of a model of two small layers, random, that reads SmolLM2's tokens."""
    if not is_small():
        return "smollm2"
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from capture.model.sources import packaged_folder

    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    tokenizer = AutoTokenizer.from_pretrained(packaged_folder("smollm2"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder.name)
    tokenizer.save_pretrained(folder.name)
    return folder.name


def _repeated(sample: Path) -> Path:
    """A file as long as a benchmark asks for: paragraphs of the sample's sentences in other orders, or the sample under other ids."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    path, text = Path(folder.name) / f"sample{sample.suffix}", sample.read_text(encoding="utf-8")
    if sample.suffix == ".txt":
        chance, lines = random.Random(0), text.splitlines()
        many = [" ".join(chance.sample(lines, chance.choice(_LENGTHS))) + "\n" for _ in range(_PARAGRAPHS)]
    else:
        many = [re.sub(r'(id = |"id": ")', rf"\g<1>{n}-", text) for n in range(_TIMES)]
    path.write_text("".join(many), encoding="utf-8")
    return path


def texts() -> list[str]:
    """Paragraphs and headings."""
    return [example.text for example in opened("wikitext2", headings=True).read()]


def long_texts(tokenizer: Any, length: int, count: int) -> list[str]:
    """The first `count` paragraphs of at least `length` tokens."""
    found: list[str] = []
    for text in texts():
        if len(tokenizer(text).input_ids) >= length:
            found.append(text)
            if len(found) == count:
                return found
    raise SystemExit(f"only {len(found)} paragraphs have {length} tokens")
