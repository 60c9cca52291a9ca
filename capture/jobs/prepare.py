"""From a model, data and options to a `Job`: what is checked and decided before any data is read.

In go a kind's own parts (its tables, its loss, how it makes sequences) beside model, data and options. Out comes the `Job` that
`run_job` runs: the model examined, the sites resolved to tensors, the tokenization settled. Options that do not fit the model are
errors here. Each kind of capture calls `prepare` once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from capture.data.example import Source
from capture.jobs.job import Generation, Job, Options, Progress, Tables, resolve_max_len
from capture.model import loading
from capture.model.anatomy import Anatomy
from capture.model.attention_formula import eager_error
from capture.model.attention_hook import eager_attention
from capture.model.body import vocabulary_size
from capture.model.examine import examine
from capture.model.forward_trace import attention_outputs, probe_tokens
from capture.model.tolerances import formula_tolerance
from capture.recording.plan import ATTN_HOMES, plan
from capture.recording.recorder import store_dtype
from capture.recording.rows import Rows
from capture.sequences.bos import check_chat_template_bos, resolve_bos
from capture.sequences.chat import ChatTemplate
from capture.sequences.tokenize import SequenceMaker, TokenizeOptions
from warehouse.errors import UsageError
from warehouse.schema import sites
from warehouse.storage.int8 import CODED
from warehouse.vectors import index_spec


def prepare(
    kind: str,
    loaded: loading.Loaded,
    source: Source,
    options: Options,
    rows: Rows,
    tables: Tables,
    mean_loss: Callable[[Path], float | None],
    refusal: Callable[[Progress], str | None] = lambda _: None,
    anatomy: Anatomy | None = None,
    sequencing: SequenceMaker | None = None,
    model_context: AbstractContextManager[Any] | None = None,
    generation: Generation | None = None,
) -> Job:
    """Examine the model, and decide what is stored.

    Args:
        kind: The kind of capture, such as `next-token`.
        loaded: The model and its tokenizer.
        source: The data.
        options: What the user chose.
        rows: Makes rows of the tables that all kinds share.
        tables: Makes a kind's own tables from a batch and its recording.
        mean_loss: Computes the mean loss, nats, from the finished tables in a folder; None for a kind without predictions.
        refusal: Says why what was read makes no run, if so.
        anatomy: The model's, if it has been examined.
        sequencing: How examples become sequences; None: their texts do.
        model_context: What has to be open while batches go through the model.
        generation: How the model goes on with prompts, for kinds that generate.

    Returns:
        The job.

    Raises:
        UsageError: An option has no such value, or does not fit the model.
    """
    sites.resolve(options.capture)
    if options.attn not in ATTN_HOMES:
        raise UsageError(f"--attn {options.attn}: use {' or '.join(ATTN_HOMES)}.")
    anatomy = anatomy or examine(loaded.model)
    sequencing = sequencing or _tokenize_options(loaded, anatomy, source, options).sequence_maker()
    store = store_dtype(loaded.dtype, options.store_dtype)
    internals = _parse_layers(options.layer_internals, len(anatomy.main.layers))
    coded = store == CODED
    recorded = store_dtype(loaded.dtype, "auto") if coded else store
    chosen = plan(anatomy, options.capture, options.attn, recorded, sequencing.sides, internals, coded)
    if options.keep_every > 1 and not chosen.stored:
        raise UsageError(
            f"--keep-every {options.keep_every} says of which examples tensors are kept, and none are: add --capture."
        )
    n_layers = {side: len(stack.layers) for side, stack in anatomy.stacks.items()}
    indexed = index_spec.choose_keys(
        index_spec.from_index_option(options.index, chosen.stored), chosen.stored, n_layers, anatomy.main.side
    )
    if chosen.eager:
        _check_eager_attention(loaded, anatomy)
    return Job(
        kind,
        loaded,
        anatomy,
        source,
        options,
        chosen,
        store,
        sequencing,
        rows,
        tables,
        mean_loss,
        refusal,
        model_context or nullcontext(),
        indexed,
        generation,
    )


def _parse_layers(text: str, n: int) -> list[int]:
    """Return the layers that --layer-internals names; raises UsageError where the model, with `n`, has no such layer."""
    if text == "all":
        return list(range(n))
    layers = []
    for word in filter(None, text.split(",")):
        if not word.strip().isdecimal() or len(word.strip()) > 9 or int(word) >= n:
            raise UsageError(f"--layer-internals {word.strip()}: use layers from 0 to {n - 1}, or all.")
        layers.append(int(word))
    return layers


def _tokenize_options(loaded: loading.Loaded, anatomy: Anatomy, source: Source, options: Options) -> TokenizeOptions:
    """Return how texts are tokenized; raises UsageError where options do not fit the model or each other."""
    limit = resolve_max_len(loaded, options.max_len)
    side = "enc" if anatomy.body.encoder_decoder else anatomy.body.side
    target, start, chunk = options.target_column, None, options.chunk or options.stride is not None
    decoder = side == "dec"
    if not decoder and options.prepend_bos != "auto":
        what = "an encoder-decoder" if anatomy.body.encoder_decoder else "an encoder"
        raise UsageError(
            f"--prepend-bos {options.prepend_bos} is for decoders; {loaded.name} is {what}, whose tokenizer puts around a text what "
            "the model was trained with."
        )
    if options.stride is not None and limit is None:
        raise UsageError(
            f"--stride needs --max-len: {loaded.name} has no longest sequence, and would read all of a text at once."
        )
    if target is not None:
        if not anatomy.body.encoder_decoder:
            raise UsageError(f"--target-column is for encoder-decoder models; {loaded.name} has one stack.")
        if chunk:
            name = "--chunk" if options.stride is None else "--stride"
            raise UsageError(f"{name} and --target-column don't go together: a target belongs to a whole text.")
        start = _start_id(loaded)
    target_limit = min((n for n in (options.max_len, loaded.target_window) if n is not None), default=None)
    bos = resolve_bos(loaded, options.prepend_bos)
    template = None
    if source.chats:
        if target is not None:
            raise UsageError("--target-column goes with texts: a chat has its answers in it.")
        check_chat_template_bos(bos, loaded.name)
        template = ChatTemplate(loaded.tokenizer, loaded.name)
    return TokenizeOptions(
        loaded.tokenizer, side, limit, chunk, target, start, target_limit, options.stride, bos, template
    )


def _check_eager_attention(loaded: loading.Loaded, anatomy: Anatomy) -> None:
    """Raise UsageError where the attention that would be stored is not what the model applies."""
    with eager_attention(loaded.model):
        calls = attention_outputs(anatomy.body, probe_tokens(anatomy.body))
    worst = max((eager_error(call) for call in calls), default=0.0)
    if worst > 10 * formula_tolerance(loaded.model.dtype):
        raise UsageError(
            f"{loaded.name} gives other attention probabilities than it applies (off by {worst:.1e}), so they are not "
            "stored. Leave out --attn stored where attention can be derived (traces model check), or attn and heads."
        )


def _start_id(loaded: loading.Loaded) -> int:
    """Return the token that the decoder begins with; raises UsageError where the model names none that it has."""
    size = vocabulary_size(loaded.model)
    for config in (getattr(loaded.model, "generation_config", None), loaded.model.config):
        token = getattr(config, "decoder_start_token_id", None)
        if isinstance(token, int):
            if not 0 <= token < size:
                raise UsageError(
                    f"{loaded.name} has its decoder begin with token {token} (decoder_start_token_id), and its embedding has "
                    f"{size:,} rows: correct its config.json or generation_config.json."
                )
            return token
    raise UsageError(f"{loaded.name} doesn't say which token its decoder begins with (decoder_start_token_id).")
