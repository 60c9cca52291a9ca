"""A model as the recorder calls it: token ids in, last hidden states out, one tensor for each side.

The *side* is the stack that reads the tokens: `dec`, where a token sees only those before it, or `enc`, where it sees all of
them. An encoder-decoder has both. What runs is the model without its head, so that logits are computed only where they are
wanted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from capture.model.failures import error_sentence, is_memory_error
from capture.model.unchanged import unchanged
from warehouse.errors import TracesError

Tokens = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""Side → right-padded ids and mask, (B, T) each."""

_SEEN = {torch.float32: 1e-5, torch.float64: 1e-5}
_SEEN_HALF = 1e-2
"""How much a later token must change earlier states, relative to their size, to count as seen: more than the rounding of
experts that get another number of rows."""

_PADDED = {torch.float32: 1e-3, torch.float64: 1e-3}
_PADDED_HALF = 0.2
"""How much padding may change the states before it, relative to their size: other kernels round otherwise, layer after layer."""


@dataclass(frozen=True)
class Outputs:
    """What a forward pass returned, by side."""

    last: dict[str, torch.Tensor]
    """Last hidden states, (B, T, D) each, after the final norm."""
    hidden: dict[str, tuple[torch.Tensor, ...]]
    """`output_hidden_states`, (B, T, D) each; empty where they were not asked for."""
    attentions: dict[str, tuple[Any, ...]]
    """`output_attentions`, (B, H, T, T) each; empty where they were not asked for. `cross` is the decoder's attention over the
    encoder's tokens."""


class Body:
    """A model of transformers without its head, called the same way whatever its architecture is."""

    ignores_padding: bool
    """Padding after a sequence does not change its states. Where it does, only sequences of one length may share a batch. A few
    tokens show it here, and the run's own data once more (`capture.recording.batch_independence`)."""
    ignores_batch: bool = True
    """Other sequences in the batch don't change a sequence's states. Where they do, each is read alone."""

    def __init__(self, model: Any) -> None:
        """Find the model's body, and on a few tokens which side it is and whether padding changes its states.

        Raises:
            TracesError: The model reads no token ids, fails on a few tokens, or computes NaN or infinity.
            Exception: Whatever the allocator raised, where memory ran out.
        """
        self.model = model
        self.encoder_decoder = bool(getattr(model.config, "is_encoder_decoder", False))
        self.module: Any = model.base_model
        if self.module is model and not self.encoder_decoder:  # its body has another name than its class says
            self.module = next((m.base_model for m in model.children() if isinstance(m, PreTrainedModel)), model)
        head = model.get_output_embeddings()
        self._own_head = head if self.module is model and isinstance(head, nn.Module) else None
        self.side = "dec"
        try:
            causal, self.ignores_padding = self._observe()
        except Exception as e:  # a model may refuse with any error
            if isinstance(e, TracesError) or is_memory_error(e):
                raise
            raise TracesError(
                f"{type(model).__name__} fails on a few tokens of text and nothing else: {error_sentence(e)}"
            ) from e
        if not causal:
            self.side = "enc"

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that the model has; an encoder-decoder's decoder comes first."""
        return ("dec", "enc") if self.encoder_decoder else (self.side,)

    def __call__(self, tokens: Tokens, **options: Any) -> Outputs:
        """Run the model without its head, and leave it as it was.

        Args:
            tokens: Right-padded ids and mask by side. An encoder-decoder may be given the encoder's tokens alone.
            **options: What transformers takes: output_hidden_states, output_attentions, token_type_ids.

        Returns:
            The outputs by side.
        """
        with unchanged(self.model):
            return self._run(tokens, options)

    def _run(self, tokens: Tokens, options: dict[str, Any]) -> Outputs:
        device = self.model.device
        options = {k: x.to(device) if isinstance(x, torch.Tensor) else x for k, x in options.items()}
        inputs = {side: (ids.to(device), mask.to(device)) for side, (ids, mask) in tokens.items()}
        if not self.encoder_decoder:
            ((side, (ids, mask)),) = inputs.items()
            return self._run_stack(self.module, side, ids, mask, options)
        if "dec" not in inputs:
            return self._run_stack(self.model.get_encoder(), "enc", *inputs["enc"], options)
        return self._run_encoder_decoder(inputs, options)

    def _run_stack(
        self, module: Any, side: str, ids: torch.Tensor, mask: torch.Tensor, options: dict[str, Any]
    ) -> Outputs:
        out = module(input_ids=ids, **_accepted(module, attention_mask=mask, use_cache=False), **options)
        last = out.last_hidden_state if hasattr(out, "last_hidden_state") else out[0]
        return Outputs(
            {side: last},
            {side: out.get("hidden_states") or ()},
            {side: out.get("attentions") or ()},
        )

    def _run_encoder_decoder(
        self, inputs: dict[str, tuple[torch.Tensor, torch.Tensor]], options: dict[str, Any]
    ) -> Outputs:
        (enc_ids, enc_mask), (dec_ids, dec_mask) = inputs["enc"], inputs["dec"]
        last: list[torch.Tensor] = []
        decoder = self.model.get_decoder()
        handle = decoder.register_forward_hook(lambda _m, _args, output: last.append(output[0]))
        head = self._own_head
        try:
            with replace_forward(head, lambda x: x[..., :1]) if head is not None else nullcontext():
                out = self.module(
                    input_ids=enc_ids,
                    attention_mask=enc_mask,
                    decoder_input_ids=dec_ids,
                    **_accepted(self.module, decoder_attention_mask=dec_mask, use_cache=False),
                    **options,
                )
        finally:
            handle.remove()
        return Outputs(
            {"dec": last[-1], "enc": out.encoder_last_hidden_state},
            {"dec": out.get("decoder_hidden_states") or (), "enc": out.get("encoder_hidden_states") or ()},
            {
                "dec": out.get("decoder_attentions") or (),
                "enc": out.get("encoder_attentions") or (),
                "cross": out.get("cross_attentions") or (),
            },
        )

    def _observe(self) -> tuple[bool, bool]:
        """Observe whether tokens see only those before them, and whether padding changes nothing.

        A batch holds a sequence, the same sequence with another last token, and its beginning, padded. The beginning is then
        read alone, and with another last token: some models see later tokens only where nothing is padded.

        Returns:
            Whether the model is causal, and whether it ignores padding.

        Raises:
            TracesError: The model computes NaN or infinity.
        """
        ids = probe_ids(self.model, 11).cpu()
        other, start = ids.clone(), ids.clone()
        other[0, -1] = (other[0, -1] + 1) % vocabulary_size(self.model)
        start[0, 7:] = padding_id(self.model)
        mask = torch.ones((3, 11), dtype=torch.long)
        mask[2, 7:] = 0
        with torch.no_grad():
            batch = self(dict.fromkeys(self.sides, (torch.cat([ids, other, start]), mask))).last
            alone = self(dict.fromkeys(self.sides, (ids[:, :7], mask[:1, :7]))).last
            start[0, 6] = (start[0, 6] + 1) % vocabulary_size(self.model)
            changed = self(dict.fromkeys(self.sides, (start[:, :7], mask[:1, :7]))).last
        if any(not bool(x.isfinite().all()) for x in alone.values()):
            raise TracesError(explain_non_finite(self.model))
        x = batch["dec"]
        causal = self.encoder_decoder or all(
            _within(a[:-1], b[:-1], _SEEN.get(x.dtype, _SEEN_HALF))
            for a, b in ((x[0], x[1]), (alone["dec"][0], changed["dec"][0]))
        )
        pads = all(_within(x[0], batch[side][2, :7], _PADDED.get(x.dtype, _PADDED_HALF)) for side, x in alone.items())
        return causal, pads


def explain_non_finite(model: Any) -> str:
    """Explain why a model computes NaN or infinity, and what a user can do about it."""
    broken = [name for name, w in model.state_dict().items() if not bool(w.isfinite().all())]
    if broken:
        where = f"NaN or infinity in {broken[0]}{f' and {len(broken) - 1} more' if len(broken) > 1 else ''}"
        return f"{type(model).__name__}: its weights hold {where}, so that it computes nothing. Get the model again."
    remedy = "is its config.json sound?" if model.dtype == torch.float32 else "try it in float32."
    dtype = str(model.dtype).removeprefix("torch.")
    return f"{type(model).__name__} computes NaN or infinity in {dtype}. Its weights are finite: {remedy}"


def _within(x: torch.Tensor, y: torch.Tensor, allowed: float) -> bool:
    """Return whether two tensors differ by at most `allowed`, relative to the largest value of the first."""
    return bool((x - y).abs().max() <= allowed * x.abs().max())


def padding_id(model: Any) -> int:
    """Return the token that shorter sequences are filled up with.

    Returns:
        The model's padding token, or 0 where it names none that its embedding has. Which one it is makes no difference: padding
        is masked and comes last.
    """
    token = getattr(model.config.get_text_config(), "pad_token_id", None)
    return token if isinstance(token, int) and 0 <= token < vocabulary_size(model) else 0


def vocabulary_size(model: Any) -> int:
    """Return the number of rows in the model's embedding of token ids.

    Raises:
        TracesError: The model reads something other than token ids, or does not show its embedding.
    """
    try:
        weight = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:
        raise TracesError(
            f"{type(model).__name__} does not show its embedding of token ids, so that it is not read."
        ) from None
    if weight is None or weight.ndim != 2:
        raise TracesError(f"{type(model).__name__} reads no text: it has no embedding of token ids.")
    return int(weight.shape[0])


def probe_ids(model: Any, length: int, seed: int = 0) -> torch.Tensor:
    """Return random token ids to probe a model with, no padding token among them.

    Args:
        model: A model of transformers.
        length: The number of tokens.
        seed: The seed of the random numbers.

    Returns:
        (1, length) ids on the model's device, the same for every model with the same vocabulary size.
    """
    vocabulary = vocabulary_size(model)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (1, length), generator=generator)
    ids[ids == padding_id(model)] = (padding_id(model) + 1) % vocabulary
    return ids.to(model.device)


@contextmanager
def replace_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace a module's `forward` while the context is open."""
    before = module.__dict__.get("forward")  # set on the instance by accelerate, where it spreads a model over devices
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def _accepted(module: Any, **options: Any) -> dict[str, Any]:
    """Return those options that the module's forward names as parameters."""
    names = inspect.signature(module.forward).parameters
    return {k: v for k, v in options.items() if k in names}
