"""Models, tokenizers and options that don't fit: the right value, or one line, and nothing left behind."""

from __future__ import annotations

import json
import math
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zoo
from samples import DATA
from transformers import BartForConditionalGeneration, ByT5Tokenizer, CanineTokenizer, LlamaForCausalLM

from capture.cli.options import CaptureOptions, LoadOptions
from capture.cli.values import parse_max_len
from capture.data.example import Row, Source
from capture.data.prompt_sets import open_prompts
from capture.data.text import open_text
from capture.jobs import encode, generate, next_token
from capture.logit_lens import lens_run
from capture.model import loading
from capture.model.body import padding_id
from capture.sequences.decoding import decode_sequences, decode_tokens
from capture.training import finetune
from warehouse import TraceStore
from warehouse.errors import TracesError, UsageError
from warehouse.storage import paths
from warehouse.storage.losses import perplexity
from warehouse.validation.validate import validate


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path)


def write_text(folder: Path) -> Path:
    path = folder / "texts.txt"
    path.write_text("The lighthouse stood.\nA lamp was lit, and it burned.\n", encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> Callable[..., Path]:
    """A copy of a tiny model, with other fields in its configuration."""

    def make(kind: str = "llama", **fields: object) -> Path:
        path = Path(shutil.copytree(tiny_folder(kind), tmp_path / kind))
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | fields))
        return path

    return make


def source(path: Path) -> Any:
    return open_text(str(path), "text")


@contextmanager
def nothing_left(*places: Path) -> Iterator[None]:
    """Fails where there is afterwards what was not there before."""

    def there() -> list[Path]:
        return sorted(p for place in places for p in (place, *place.rglob("*")) if p.exists())

    before = there()
    yield
    assert there() == before


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_token_that_the_embedding_has_not_is_named_before_anything_is_run(
    tmp_path: Path, folder: Callable[..., Path], text: Path
) -> None:
    place = folder()
    words = loading.load(str(place)).tokenizer
    words.add_tokens(["lighthouse"])
    words.save_pretrained(place)
    loaded, root = loading.load(str(place), device="cpu"), tmp_path / "runs"
    told = "gives 'lighthouse' the id 400; it has 401 tokens, and the model's embedding has 400 rows"
    for kind, options, data in (
        (next_token, next_token.Options(), source(text)),
        (encode, encode.Options(capture="hidden"), source(text)),
        (generate, generate.Options(max_new_tokens=2), open_prompts(["Where is the lighthouse?"])),
    ):
        with nothing_left(root), pytest.raises(UsageError, match=told):
            kind.run(loaded, data, options, root=root, run_id="r")
        with pytest.raises(UsageError, match=told):
            kind.forecast(loaded, data, options)
    other = tmp_path / "other.txt"
    other.write_text("A lamp was lit.\n")
    assert next_token.run(loaded, source(other), next_token.Options(), root=root, run_id="r").counts.tokens


def test_choices_and_targets_are_looked_up_too(tmp_path: Path, folder: Callable[..., Path], tokenizer: Any) -> None:
    from capture.data.registry import open_data
    from capture.jobs import mcq_prompt

    place, root = folder(), tmp_path / "runs"
    words = loading.load(str(place)).tokenizer
    words.add_tokens(["harbour"])
    questions = open_data("csqa", origin=str(DATA / "questions.jsonl"), root=root)
    loaded = replace(loading.load(str(place), device="cpu"), tokenizer=words)
    with nothing_left(root), pytest.raises(UsageError, match="Question q2: .*'harbour' the id 400"):
        mcq_prompt.run(loaded, questions, mcq_prompt.Options(), root=root, run_id="r")
    bart = zoo.build("bart")
    assert isinstance(bart, BartForConditionalGeneration)
    target = tmp_path / "t.jsonl"
    target.write_text('{"text": "a lamp", "to": "a harbour"}\n')
    seq2seq = loading.Loaded(bart.eval(), words, "bart", None, "cpu", False)
    options = next_token.Options(target_column="to")
    with nothing_left(root), pytest.raises(UsageError, match="example 1: .*'harbour' the id 400"):
        next_token.run(seq2seq, source(target), options, root=root, run_id="r")
    bart.generation_config.decoder_start_token_id = 999
    with nothing_left(root), pytest.raises(UsageError, match="begin with token 999 .*embedding has 400 rows"):
        next_token.run(seq2seq, source(target), options, root=root, run_id="r")


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{% for", "{{ messages[9].x.y }}"])
def test_a_chat_template_that_fails_is_one_line(tmp_path: Path, load_tiny: Callable, template: str) -> None:
    from capture.data.example import Choice, Example, Row
    from capture.sequences.question_prompts import PromptMaker

    words = loading.load(load_tiny().name, device="cpu").tokenizer
    words.chat_template = template
    loaded, root = replace(load_tiny(), tokenizer=words), tmp_path / "runs"
    with nothing_left(root), pytest.raises(UsageError, match="its chat template fails on 'A lamp'") as e:
        generate.run(loaded, open_prompts(["A lamp"]), generate.Options(max_new_tokens=2), root=root, run_id="r")
    row = Row("q1", "What is lit?", choices=(Choice("A", "a lamp"), Choice("B", "the sea")))
    asked = Example(open_prompts(["x"]), row, "0")
    with pytest.raises(UsageError, match="its chat template fails on question q1") as f:
        PromptMaker(words, "tiny", chat=True).prompt(asked)
    assert "\n" not in f"{e.value}{f.value}"


def test_ids_that_the_tokenizer_has_no_token_for_have_an_empty_text(
    tmp_path: Path, make_llama: Callable[..., LlamaForCausalLM], tokenizer: Any, text: Path
) -> None:
    loaded = loading.Loaded(make_llama(vocab_size=450), tokenizer, "padded", None, "cpu", False)
    root = tmp_path / "runs"
    next_token.run(loaded, source(text), next_token.Options(top_k=450, capture="hidden"), root=root, run_id="r")
    store = TraceStore(paths.run_dir(root, "r"))
    ids, told = store.query("SELECT topk_ids, topk_tokens FROM next_token LIMIT 1").fetchall()[0]
    assert {t for i, t in zip(ids, told, strict=True) if i >= 400} == {""}
    assert all(c.passed is not False for c in validate(store.path))
    options = generate.Options(max_new_tokens=40, temperature=3.0, samples=4)
    generate.run(loaded, open_prompts(["A lamp"]), options, root=root, run_id="g")
    rows = TraceStore(paths.run_dir(root, "g")).query("SELECT token FROM tokens WHERE token_id >= 400").fetchall()
    assert set(rows) == {("",)}
    lens_run.run(loaded, store.path, lens_run.Options(top_k=450), root=root, run_id="l")


def test_slow_tokenizers_that_raise_give_what_can_be_stored() -> None:
    canine, byt5 = CanineTokenizer(), ByT5Tokenizer()
    with pytest.raises(ValueError, match="arg not in range"):
        canine.decode([2_000_000])
    assert decode_tokens(canine, [65, 0xD800, 0x1F600, 2_000_000]) == ["A", "\ufffd", "\U0001f600", ""]
    assert decode_sequences(canine, [[0xD83D, 0xDE00, 0xDC00, 2_000_000]]) == ["\U0001f600\ufffd"]
    with pytest.raises(ValueError, match="bytes must be in range"):
        byt5.decode([500])
    assert decode_tokens(byt5, [100, 500, 10**6]) == ["a", "", ""]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def as_it_is(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, capture_tiny: Callable) -> Any:
    """A kind of tiny model, the text, and a run of both."""
    place = tmp_path_factory.mktemp("as_it_is")
    text = write_text(place)
    return request.param, text, capture_tiny(place / "runs", "one", request.param, text=text)


@pytest.mark.parametrize("pad", [-1, -900, 400, 10**6, None])
def test_a_padding_token_that_is_none_changes_nothing(
    tmp_path: Path, folder: Callable[..., Path], as_it_is: Any, capture_tiny: Callable, pad: int | None
) -> None:
    kind, text, one = as_it_is
    loaded = loading.load(str(folder(kind, pad_token_id=pad)), device="cpu")
    assert padding_id(loaded.model) == 0
    root = tmp_path / "runs"
    two = capture_tiny(root, "two", loaded=loaded, text=text)
    blobs = sorted((one.path / "blobs").iterdir())
    assert blobs
    for blob in blobs:
        assert blob.read_bytes() == (two.path / "blobs" / blob.name).read_bytes()
    options = generate.Options(max_new_tokens=3)
    made = generate.run(loaded, open_prompts(["A", "The lamp was"]), options, root=root, run_id="g")
    assert made.counts.sequences == 2


def test_end_tokens_that_are_none_end_nothing(tmp_path: Path, folder: Callable[..., Path]) -> None:
    place = folder()
    (place / "generation_config.json").write_text('{"eos_token_id": [700, -1]}')
    options = generate.Options(max_new_tokens=6)
    loaded = loading.load(str(place), device="cpu")
    made = generate.run(loaded, open_prompts(["The lamp"]), options, root=tmp_path, run_id="g")
    rows = TraceStore(paths.run_dir(tmp_path, "g")).query("SELECT finish, n_response_tokens FROM responses").fetchall()
    assert rows == [("length", 6)]
    assert made.counts.sequences == 1


# -- windows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["roberta", "opt", "bart", "gpt2", "ctrl"])
def test_a_text_is_cut_at_what_the_model_reads_and_more_is_refused(tmp_path: Path, tokenizer: Any, family: str) -> None:
    loaded = loading.Loaded(zoo.build(family).base_model.eval(), tokenizer, family, None, "cpu", False)
    path, root = tmp_path / "long.txt", tmp_path / "runs"
    path.write_text("The lamp was lit by the keeper. " * 100)
    with nothing_left(root), pytest.raises(UsageError, match=f"--max-len 129 is more than {family} was made for: 128"):
        encode.run(loaded, source(path), encode.Options(max_len=129), root=root, run_id="r")
    made = encode.run(loaded, source(path), encode.Options(capture="hidden"), root=root, run_id="r")
    assert (made.counts.tokens, made.counts.truncated, made.model.window) == (128, 1, 128)


def test_targets_are_cut_at_the_decoders_own_window(tmp_path: Path, tokenizer: Any) -> None:
    loaded = loading.Loaded(zoo.build("bart"), tokenizer, "bart", None, "cpu", False)
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"text": "a lamp", "to": "The lamp was lit by the keeper. " * 100}) + "\n")
    options = next_token.Options(target_column="to")
    made = next_token.run(loaded, source(path), options, root=tmp_path, run_id="r")
    assert (made.counts.predictions, made.counts.truncated) == (127, 1)


@pytest.mark.parametrize("positions", [12, 16, 40])
def test_models_with_small_windows_are_recorded(
    tmp_path: Path, make_gpt2: Callable, tokenizer: Any, positions: int
) -> None:
    loaded = loading.Loaded(make_gpt2(n_positions=positions), tokenizer, "small", None, "cpu", False)
    path = tmp_path / "t.txt"
    path.write_text("The lamp was lit by the keeper. " * 9)
    options = next_token.Options(capture="attn,hidden", chunk=True)
    next_token.run(loaded, source(path), options, root=tmp_path, run_id="r")
    assert all(c.passed is not False for c in validate(paths.run_dir(tmp_path, "r")))


def test_what_fails_in_the_model_itself_names_it_and_the_longest_sequence(
    tmp_path: Path, make_gpt2: Callable, tokenizer: Any, text: Path
) -> None:
    model = make_gpt2()
    loaded = loading.Loaded(model, tokenizer, "broken", None, "cpu", False)
    job = next_token.prepare_job(loaded, source(text), next_token.Options())
    model.transformer.wpe.weight.data = model.transformer.wpe.weight.data[:5]  # after it was looked at
    from capture.jobs.run_job import _run

    root = tmp_path / "runs"
    with nothing_left(root), pytest.raises(TracesError, match=r"broken fails on a sequence of \d+ tokens: .*--max-len"):
        _run(job, root, "r", lambda _: None, lambda _: None)


def test_a_model_that_reads_too_little_to_be_looked_at_says_so(
    tmp_path: Path, make_gpt2: Callable, tokenizer: Any, text: Path
) -> None:
    loaded = loading.Loaded(make_gpt2(n_positions=8), tokenizer, "tiny", None, "cpu", False)
    with nothing_left(tmp_path / "runs"), pytest.raises(TracesError, match="reads at most 8 tokens"):
        next_token.run(loaded, source(text), next_token.Options(), root=tmp_path / "runs", run_id="r")


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_a_loss_whose_exponential_no_number_holds_is_published_without_a_perplexity(
    tmp_path: Path, make_llama: Callable, tokenizer: Any, text: Path, traces: Callable
) -> None:
    assert perplexity(2.0) == math.exp(2.0)
    assert perplexity(None) is perplexity(709.5) is None
    model = make_llama()
    model.lm_head.weight.data.mul_(30_000)
    loaded = loading.Loaded(model, tokenizer, "loud", None, "cpu", False)
    made = next_token.run(loaded, source(text), next_token.Options(), root=tmp_path, run_id="r")
    assert made.mean_loss is not None
    assert made.mean_loss > 709
    assert made.perplexity is None
    assert TraceStore(paths.run_dir(tmp_path, "r")).meta.perplexity is None
    assert all(c.passed is not False for c in validate(paths.run_dir(tmp_path, "r")))
    shown = traces("runs", "show", "r", "-w", tmp_path)
    assert f"{made.mean_loss:.4f} nats per token" in shown.out, shown


def test_weights_of_other_shapes_than_the_configuration_says_are_named(folder: Callable[..., Path]) -> None:
    with pytest.raises(
        TracesError, match=r"[a-z_.]+weight is \(\d+, \d+\) in its weights, and \(3, \d+\) by its config.json"
    ):
        loading.load(str(folder(vocab_size=3)), device="cpu")


def test_predictions_that_are_not_numbers_are_refused(
    tmp_path: Path, make_llama: Callable, tokenizer: Any, text: Path
) -> None:
    """Whether they show at the first look, or in the data alone."""
    model, root = make_llama(), tmp_path / "runs"
    loaded = loading.Loaded(model, tokenizer, "loud", None, "cpu", False)
    job = next_token.prepare_job(loaded, source(text), next_token.Options())
    model.lm_head.weight.data.fill_(3e38)
    from capture.jobs.run_job import _run

    told = "computes NaN or infinity in float32, in the batch with example 2"
    with nothing_left(root), pytest.raises(TracesError, match=told):
        _run(job, root, "r", lambda _: None, lambda _: None)
    with (
        nothing_left(root),
        pytest.raises(TracesError, match="computes NaN or infinity in float32. Its weights are finite"),
    ):
        next_token.run(loaded, source(text), next_token.Options(), root=root, run_id="r")


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        (next_token.Options, {"batch_tokens": 10**30}, "--batch-tokens: at most 2,147,483,647"),
        (next_token.Options, {"limit": 10**30}, "--limit"),
        (next_token.Options, {"shard_mb": 10**400}, "--shard-mb"),
        (next_token.Options, {"top_k": 10**30}, "--top-k"),
        (next_token.Options, {"max_len": 10**30}, "--max-len"),
        (generate.Options, {"seed": 2**70}, "--seed"),
        (generate.Options, {"samples": 10**30}, "--samples"),
        (generate.Options, {"max_new_tokens": 10**30}, "--max-new-tokens"),
        (generate.Options, {"sample_top_k": 10**30}, "--sample-top-k"),
        (lens_run.Options, {"top_k": 10**30}, "--top-k"),
        (finetune.Options, {"epochs": 10**30}, "--epochs"),
        (finetune.Options, {"seed": 2**32}, "--seed"),
        (finetune.Options, {"seed": -1}, "--seed -1"),
        (finetune.Options, {"lr": math.nan}, "--lr nan"),
        (finetune.Options, {"lr": math.inf}, "--lr inf"),
    ],
)
def test_numbers_that_no_computer_counts_to(kind: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        kind(**options)


@pytest.mark.parametrize("word", ["9" * 5000, "-1", "1", "nan", "1e3"])
def test_lengths_that_are_none(word: str) -> None:
    with pytest.raises(UsageError, match="--max-len .*use 'auto' or a number of tokens from 2 up"):
        parse_max_len(word)


@pytest.mark.parametrize("options", [{"temperature": x} for x in (math.nan, math.inf, -1.0, 1e-320)] + [
    {"top_p": x} for x in (math.nan, 0.0, -1.0, 1.5)])  # fmt: skip
def test_ways_of_drawing_that_are_none(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=rf"--{next(iter(options)).replace('_', '-')} "):
        generate.Options(**options).sampling.check()


# -- memory ------------------------------------------------------------------------------------------------------------


@contextmanager
def little_memory(octets: int) -> Iterator[None]:
    """No more than so many bytes can be had beyond those that the process has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + octets, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_too_little_memory_is_one_line_that_says_what_takes_less(
    tmp_path: Path, make_llama: Callable, tokenizer: Any
) -> None:
    model = make_llama(vocab_size=2_000_000, hidden_size=8, num_attention_heads=2, head_dim=4, tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    path, root = tmp_path / "t.txt", tmp_path / "runs"
    path.write_text("The lamp was lit by the keeper. " * 100)
    loaded = loading.Loaded(model, tokenizer, "wide", None, "cpu", False)
    options = next_token.Options(batch_tokens=777)
    with (
        nothing_left(root),
        pytest.raises(TracesError, match=r"to run wide. Lower --batch-tokens \(now 777\).*bfloat16"),
        little_memory(60 << 20),
    ):
        next_token.run(loaded, source(path), options, root=root, run_id="r")
    with (
        pytest.raises(TracesError, match="not enough memory to load .* smaller dtype, such as bfloat16"),
        little_memory(16 << 20),
    ):
        loading.load(str(tmp_path / "wide"), device="cpu")


# -- nothing is left -----------------------------------------------------------------------------------------------------


def test_what_is_refused_before_anything_is_recorded_leaves_nothing(
    tmp_path: Path, load_tiny: Callable, text: Path
) -> None:
    """No name that is taken, no staging, no lock, and no root."""
    loaded, root = load_tiny(), tmp_path / "runs"
    short, empty, late = (tmp_path / name for name in ("short.txt", "empty.txt", "late.jsonl"))
    short.write_text("a\n")
    empty.write_text("")
    late.write_text('{"text": "The lamp burned."}\n' * 80 + '{"text": 5}\n')
    refused: list[tuple[Any, Any, Path]] = [
        (next_token, next_token.Options(), short),
        (next_token, next_token.Options(), empty),
        (next_token, next_token.Options(), late),
        (next_token, next_token.Options(capture="no such site"), text),
        (next_token, next_token.Options(capture="hidden", index="q@1"), text),
        (next_token, next_token.Options(capture="hidden", index="resid.post_mlp@9"), text),
        (next_token, next_token.Options(max_len=999), text),
        (next_token, next_token.Options(target_column="to"), text),
        (next_token, next_token.Options(layer_internals="7"), text),
        (next_token, next_token.Options(shard="5/9"), text),
        (encode, encode.Options(capture="hidden"), empty),
    ]
    for kind, options, path in refused:
        with nothing_left(tmp_path), pytest.raises(UsageError):
            kind.run(loaded, source(path), options, root=root, run_id="r")
    for options in (generate.Options(temperature=-1), generate.Options(max_new_tokens=9999)):
        with nothing_left(tmp_path), pytest.raises(UsageError):
            generate.run(loaded, open_prompts(["A lamp"]), options, root=root, run_id="r")
    root.mkdir()
    (root / "mine.txt").write_text("kept")
    with nothing_left(tmp_path), pytest.raises(UsageError):
        next_token.run(loaded, source(short), next_token.Options(), root=root, run_id="r")
    assert next_token.run(loaded, source(text), next_token.Options(), root=root, run_id="r").counts.tokens


def test_what_is_complete_when_the_data_turns_out_bad_is_kept(
    tmp_path: Path, load_tiny: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from capture.jobs import job_batches
    from capture.sequences import batches

    monkeypatch.setattr(job_batches, "_SHARD_TOKENS", 200)
    monkeypatch.setattr(batches, "_WINDOW_EXAMPLES", 16)
    monkeypatch.setattr("capture.sequences.tokenize._TOKENIZED_AT_ONCE", 16)
    read = []

    def rows() -> Iterator[Row]:
        """As a data set does that is away when it is read the second time."""
        read.append(1)
        for n in range(80):
            yield Row(str(n), "The lamp burned.")
        if len(read) > 1:
            raise TracesError("The hub cannot be reached.")

    given = Source("away", None, None, "away", rows)
    with pytest.raises(TracesError, match="cannot be reached"):
        next_token.run(load_tiny(), given, next_token.Options(), root=tmp_path / "runs", run_id="r")
    assert paths.staged_runs(tmp_path / "runs") == ["r"]


def test_bad_data_is_found_before_anything_is_computed(tmp_path: Path, load_tiny: Callable) -> None:
    path = tmp_path / "late.jsonl"
    path.write_text('{"text": "The lamp burned."}\n' * 80 + '{"text": 5}\n')
    with nothing_left(tmp_path / "runs"), pytest.raises(UsageError, match=r"late.jsonl, line 81: "):
        next_token.run(load_tiny(), source(path), next_token.Options(), root=tmp_path / "runs", run_id="r")


def test_a_lens_that_is_refused_leaves_nothing(tmp_path: Path, tiny_root: Path, load_tiny: Callable) -> None:
    run, root = paths.run_dir(tiny_root, "llama"), tmp_path / "runs"
    refused: list[tuple[Any, dict[str, Any]]] = [
        (load_tiny("gpt2"), {}),
        (load_tiny(), {"layers": "9" * 5000}),
        (load_tiny(), {"positions": "99999999999999999999999"}),
        (load_tiny(), {"shard": "999/999"}),
    ]
    for loaded, options in refused:
        with nothing_left(root), pytest.raises(UsageError):
            lens_run.run(loaded, run, lens_run.Options(1, **options), root=root, run_id="l")


@pytest.mark.parametrize(
    "given", [{"capture": " "}, {"index": ["q@1", ""]}, {"revision": ""}, {"device_map": ""}], ids=str
)
def test_an_option_without_a_value_is_named(given: dict[str, Any]) -> None:
    """As a variable of the shell that is not set leaves it: nothing captured, or another revision, would be silent."""
    name = next(iter(given)).replace("_", "-")
    with pytest.raises(UsageError, match=f"--{name} is empty: give it a value, or leave it out."):
        if given.keys() & {"capture", "index"}:
            CaptureOptions(**given).checked()
        else:
            LoadOptions(**given).load("smollm2", "lm")
