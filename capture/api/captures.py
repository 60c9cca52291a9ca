"""Captures from Python: a model reads texts, answers questions or goes on with prompts, and what happens inside is a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from capture.api.arguments import check_loaded, in_python_terms
from capture.api.capture_options import shared_options
from capture.api.runs import Texts, capture_run, screen_note
from warehouse.errors import UsageError
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from capture.model.loading import Loaded


@in_python_terms
def next_token(
    model: Loaded,
    data: Texts,
    *,
    keep: str = "none",
    run: str | None = None,
    root: str | AnyPath | None = None,
    limit: int | None = None,
    max_len: int | None = None,
    chunk: bool = False,
    stride: int | None = None,
    prepend_bos: str = "auto",
    target_column: str | None = None,
    top_k: int = 5,
    index: str | Sequence[str] | None = None,
    attn: str = "auto",
    store_dtype: str = "auto",
    batch_tokens: int = 1024,
    shard_mb: int = 256,
    part: str = "",
    sample: float | None = None,
    keep_every: int = 1,
    skip_existing: bool = False,
) -> TraceStore:
    """Record next-token diagnostics at every position, and the tensors behind them.

    The same call again continues a capture that was interrupted.

    Example:
        run = capture.next_token(model, ["The capital of France is Paris."], keep="resid,qkv", run="mine")
        run.tokens

    Args:
        model: A decoder, or an encoder-decoder, from `load` or `wrap`.
        data: Texts, or a source: `open_file`, `open_dataset`, `open_texts`.
        keep: The tensors to store: any of `hidden,resid,qkv,attn,q,k,v,attn_out,mlp_out,mlp_act,heads`, or `none`.
        run: The new run's name; None: one made from model and data.
        root: The warehouse's folder; None: `$TRACES_HOME`, else `./runs`.
        limit: Read only the first examples.
        max_len: Cut texts to this many tokens; None: the model's window.
        chunk: Go on with a long text in the next `seq`.
        stride: As `chunk`, in windows that overlap: each begins this many tokens after the one before it.
        prepend_bos: `auto`, `yes` or `no`: whether sequences begin with the model's BOS.
        target_column: For encoder-decoders: the field of the text that the decoder is given.
        top_k: How many of the most probable tokens to keep at each position.
        index: What is searchable by nearness, such as `"resid.post_mlp@8,16"`, or several in a list, or `"none"`; None: the middle
            of the residual stream, if that is kept.
        attn: `auto` derives attention from q and k where that is exact; `stored` stores it.
        store_dtype: Keep tensors in `float16`, `bfloat16`, `float32` or `int8`; `auto`: as computed, but float16 for float32.
        batch_tokens: Tokens in a forward pass, padding included.
        shard_mb: Size of a tensor file, MB.
        part: The part `i/n` of the run that this process does; `traces runs merge` makes one of them.
        sample: Read only this share of the examples, chosen by their ids.
        keep_every: Keep tensors of one example in so many, chosen by their ids.
        skip_existing: If a run of this name exists, return it as it is.

    Returns:
        The run.

    Raises:
        UsageError: An argument has no such value, or does not fit the model.
        RunExistsError: The run exists already.
        TracesError: The model fails on the data.
    """
    shared = shared_options(
        keep=keep, attn=attn, store_dtype=store_dtype, index=index, limit=limit, max_len=max_len, batch_tokens=batch_tokens,
        shard_mb=shard_mb, part=part, sample=sample, keep_every=keep_every,
    )  # fmt: skip
    from capture.jobs import next_token as job

    options = job.Options(
        **shared, chunk=chunk, stride=stride, prepend_bos=prepend_bos, target_column=target_column, top_k=top_k
    )
    return capture_run(job, model, data, options, root, run, skip_existing)


@in_python_terms
def encode(
    model: Loaded,
    data: Texts,
    *,
    keep: str = "hidden",
    run: str | None = None,
    root: str | AnyPath | None = None,
    limit: int | None = None,
    max_len: int | None = None,
    chunk: bool = False,
    stride: int | None = None,
    prepend_bos: str = "auto",
    target_column: str | None = None,
    index: str | Sequence[str] | None = None,
    attn: str = "auto",
    store_dtype: str = "auto",
    batch_tokens: int = 1024,
    shard_mb: int = 256,
    part: str = "",
    sample: float | None = None,
    keep_every: int = 1,
    skip_existing: bool = False,
) -> TraceStore:
    """Record tensors alone, without next-token diagnostics: of encoders, and of decoders without their head.

    The same call again continues a capture that was interrupted.

    Example:
        run = capture.encode(model, capture.open_file("reviews.csv", label_column="label"), keep="resid", run="reviews")

    Args:
        model: Any model, from `load` or `wrap`. Of an encoder-decoder the encoder reads, and the decoder where there are targets.
        data: As for `next_token`, and so are all other arguments.
        keep: The tensors to store.
        run: The new run's name.
        root: The warehouse's folder.
        limit: Read only the first examples.
        max_len: Cut texts to this many tokens.
        chunk: Go on with a long text in the next `seq`.
        stride: As `chunk`, in windows that overlap.
        prepend_bos: Whether a decoder's sequences begin with the model's BOS.
        target_column: For encoder-decoders: the field of the text that the decoder is given.
        index: What is searchable by nearness.
        attn: Whether attention is derived or stored.
        store_dtype: What tensors are kept in.
        batch_tokens: Tokens in a forward pass.
        shard_mb: Size of a tensor file, MB.
        part: The part `i/n` of the run that this process does.
        sample: Read only this share of the examples, chosen by their ids.
        keep_every: Keep tensors of one example in so many, chosen by their ids.
        skip_existing: If a run of this name exists, return it as it is.

    Returns:
        The run.

    Raises:
        UsageError: An argument has no such value, or does not fit the model.
        RunExistsError: The run exists already.
        TracesError: The model fails on the data.
    """
    shared = shared_options(
        keep=keep, attn=attn, store_dtype=store_dtype, index=index, limit=limit, max_len=max_len, batch_tokens=batch_tokens,
        shard_mb=shard_mb, part=part, sample=sample, keep_every=keep_every,
    )  # fmt: skip
    from capture.jobs import encode as job

    options = job.Options(**shared, chunk=chunk, stride=stride, prepend_bos=prepend_bos, target_column=target_column)
    return capture_run(job, model, data, options, root, run, skip_existing)


@in_python_terms
def mcq(
    model: Loaded,
    data: Texts,
    *,
    keep: str = "none",
    run: str | None = None,
    root: str | AnyPath | None = None,
    limit: int | None = None,
    max_len: int | None = None,
    score: str | None = None,
    template: str | None = None,
    chat: bool = False,
    prepend_bos: str = "auto",
    index: str | Sequence[str] | None = None,
    attn: str = "auto",
    store_dtype: str = "auto",
    batch_tokens: int = 1024,
    shard_mb: int = 256,
    part: str = "",
    sample: float | None = None,
    keep_every: int = 1,
    skip_existing: bool = False,
) -> TraceStore:
    """Put multiple-choice questions to a model: what it answers, how sure it is, and the tensors behind that.

    A decoder gets each question as a prompt; a model with a multiple-choice head gets it with each choice, as pairs.

    Example:
        run = capture.mcq(model, capture.open_dataset("csqa"), keep="attn,qkv", run="questions")
        run.tokens[["label_idx", "pred_idx", "is_correct"]]

    Args:
        model: A decoder, or an encoder with a multiple-choice head.
        data: Questions: `open_dataset("csqa")`.
        keep: As for `next_token`, and so are the arguments that are not described here.
        run: The new run's name.
        root: The warehouse's folder.
        limit: Read only the first questions.
        max_len: The longest prompt, or pair, in tokens.
        score: What decides, of a decoder: `letter` (the logit of the choice's letter), `text` (the log-probability of its text) or
            `byte` (that by byte). All three are stored. None: the letter.
        template: Another prompt for a decoder: a text with `{question}` and `{choices}` in it.
        chat: Ask a decoder through the tokenizer's chat template.
        prepend_bos: Whether a decoder's prompts begin with the model's BOS.
        index: What is searchable by nearness.
        attn: Whether attention is derived or stored.
        store_dtype: What tensors are kept in.
        batch_tokens: Tokens in a forward pass.
        shard_mb: Size of a tensor file, MB.
        part: The part `i/n` of the run that this process does.
        sample: Read only this share of the examples, chosen by their ids.
        keep_every: Keep tensors of one example in so many, chosen by their ids.
        skip_existing: If a run of this name exists, return it as it is.

    Returns:
        The run.

    Raises:
        UsageError: An argument has no such value, or does not fit the model.
        RunExistsError: The run exists already.
        TracesError: The model fails on the data.
    """
    shared = shared_options(
        keep=keep, attn=attn, store_dtype=store_dtype, index=index, limit=limit, max_len=max_len, batch_tokens=batch_tokens,
        shard_mb=shard_mb, part=part, sample=sample, keep_every=keep_every,
    )  # fmt: skip
    from capture.jobs import mcq_encoder, mcq_prompt
    from capture.model.loading import head_of
    from capture.sequences.question_prompts import TEMPLATE

    if head_of(type(check_loaded(model).hf).__name__) == "multiple-choice":
        if score is not None or template is not None or chat or prepend_bos != "auto":
            raise UsageError(
                "score, template, chat and prepend_bos are for decoders: this model has a multiple-choice head."
            )
        if model.untrained:
            screen_note(
                f"{model.name}: {', '.join(model.untrained)} are random, and so are its answers: see capture.finetune"
            )
        return capture_run(mcq_encoder, model, data, mcq_encoder.Options(**shared), root, run, skip_existing)
    options = mcq_prompt.Options(
        **shared, score=score or "letter", template=template or TEMPLATE, chat=chat, prepend_bos=prepend_bos
    )
    return capture_run(mcq_prompt, model, data, options, root, run, skip_existing)


@in_python_terms
def generate(
    model: Loaded,
    prompts: Texts,
    *,
    keep: str = "resid",
    run: str | None = None,
    root: str | AnyPath | None = None,
    limit: int | None = None,
    max_new_tokens: int = 50,
    temperature: float = 0.7,
    top_p: float = 1.0,
    sample_top_k: int = 0,
    seed: int = 0,
    samples: int = 1,
    prepend_bos: str = "auto",
    layer_internals: str = "",
    top_k: int = 5,
    project: bool = True,
    index: str | Sequence[str] | None = None,
    attn: str = "auto",
    store_dtype: str = "auto",
    batch_tokens: int = 2048,
    shard_mb: int = 256,
    part: str = "",
    sample: float | None = None,
    keep_every: int = 1,
    skip_existing: bool = False,
) -> TraceStore:
    """Have a model answer prompts; then read prompt and response once, and record that, token by token.

    The model's chat template is used where it has one. Where the warehouse has vectors of traits of this model, the run is
    projected on them, which is a run of its own. The same call again continues a capture that was interrupted.

    Example:
        run = capture.generate(model, ["What do the letters NASA stand for?"], temperature=0, run="answers")

    Args:
        model: A decoder.
        prompts: Texts, or `open_prompt_sets(…)`.
        keep: As for `next_token`, and so are the arguments that are not described here.
        run: The new run's name.
        root: The warehouse's folder.
        limit: Read only the first prompts.
        max_new_tokens: The longest response in tokens, its end token included.
        temperature: How freely tokens are drawn; 0: always the most probable one.
        top_p: Draw among the fewest tokens whose probabilities sum to this.
        sample_top_k: Draw among this many of the most probable tokens; 0: among all.
        seed: Seed for drawing tokens: the same seed gives the same responses, in whatever batches.
        samples: Responses to each prompt: `seq` 0, 1, …
        prepend_bos: Whether a prompt begins with the model's BOS, where it has no chat template.
        layer_internals: Layers to keep every site of, `5,8` or `all`.
        top_k: How many of the most probable tokens to keep at each position.
        project: Whether to project the run on the traits that have vectors of this model.
        index: What is searchable by nearness.
        attn: Whether attention is derived or stored.
        store_dtype: What tensors are kept in.
        batch_tokens: Tokens in a forward pass.
        shard_mb: Size of a tensor file, MB.
        part: The part `i/n` of the run that this process does; a part is not projected.
        sample: Read only this share of the examples, chosen by their ids.
        keep_every: Keep tensors of one example in so many, chosen by their ids.
        skip_existing: If a run of this name exists, return it as it is.

    Returns:
        The run.

    Raises:
        UsageError: An argument has no such value, or does not fit the model.
        RunExistsError: The run exists already.
        TracesError: The model fails on the data.
    """
    shared = shared_options(
        keep=keep, attn=attn, store_dtype=store_dtype, index=index, limit=limit, max_len=None, batch_tokens=batch_tokens,
        shard_mb=shard_mb, part=part, sample=sample, keep_every=keep_every,
    )  # fmt: skip
    from capture.data.prompt_sets import open_prompts
    from capture.jobs import generate as job

    options = job.Options(
        **shared, layer_internals=layer_internals, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p,
        sample_top_k=sample_top_k, seed=seed, samples=samples, prepend_bos=prepend_bos, top_k=top_k,
    )  # fmt: skip
    options.sampling.check()
    store = capture_run(job, model, prompts, options, root, run, skip_existing, open_prompts)
    if project and not part:
        from capture.api.derived import project_on_known_traits

        project_on_known_traits(store.path.parent, store.meta.run_id, screen_note)
    return store
