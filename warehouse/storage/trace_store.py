"""TraceStore: one run, its small tables and its tensors, as a user reads them.

Tensors are slices of memory-mapped shards: asking for one layer of one example reads that and nothing else. What the
stored tensors determine (`hidden`, `resid.pre_attn`, `attn`) is put together here; the caller never sees the difference.
Tables come from `RunTables`, places of stored rows from `StoredTensors`, heads and attention from `StoredAttention`, which this
class builds on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from warehouse.errors import NotFoundError, UsageError
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage import readable
from warehouse.storage.stored_attention import StoredAttention

if TYPE_CHECKING:
    import pandas as pd


class TraceStore(StoredAttention):
    """A published run, opened from its folder alone: no warehouse and no model needed.

    T is the number of tokens of the sequence asked for, L the layers, H the query heads, D the width. Arrays come in the
    dtype they are stored in and may be read-only views; what is computed (`attn`, and streams of parallel blocks) is
    float32. `side` is `dec` or `enc`, the stack of the model; left out, it is the decoder, or the encoder of a model that
    has no decoder. Every accessor raises NotFoundError for an example that the run does not have (with the nearest ids), and
    UsageError for a site that it did not store or the model does not have, or a layer or head that does not exist.

    Several threads may read at once: what is opened on first use is opened twice at worst, and each is whole.
    """

    def __repr__(self) -> str:
        c = self.meta.counts
        return f"<TraceStore {self.meta.run_id}: {self.meta.model.name}, {c.examples} examples, {c.tokens} tokens>"

    @property
    def sites(self) -> set[str]:
        """The names of the sites that can be read, stored or derived, on either side."""
        return {r.site for r in readable.readable(self.meta)}

    def arrays(self) -> pd.DataFrame:
        """List the sites that can be read.

        Returns:
            A row a site: side, site, its shape for one sequence, dtype, origin (stored or derived) and a note. Where layers
            differ in shape, each shape stands with its layers; read those layers one at a time.
        """
        import pandas as pd

        return pd.DataFrame(readable.readable(self.meta), columns=list(readable.Readable._fields))

    def resid(
        self,
        example_id: str,
        stage: str = "post_mlp",
        layer: int | None = None,
        *,
        seq: int = 0,
        side: str | None = None,
    ) -> np.ndarray:
        """Return the residual stream of a sequence.

        Args:
            example_id: The example.
            stage: `embed`, what enters the first layer; `pre_attn`, a layer's input; `post_attn`, after its attention is
                added; `post_cross`, after its attention over the encoder's tokens; `post_mlp`, its output. Where the block
                normalises after adding (`meta.model.convention` is `post-norm`), the streams are those after the norms.
            layer: The layer; None for all.
            seq: Which sequence of the example.
            side: The stack of the model.

        Returns:
            (T, D) for one layer and for `embed`, (L, T, D) for all layers.

        Raises:
            NotFoundError: There is no stage of that name.
        """
        side = self.check_side(side)
        if stage not in sites.RESID_STAGES:
            raise NotFoundError("stage of the residual stream", stage, sites.RESID_STAGES)
        if stage == "embed":
            return self.rows(Key(side, "resid.embed", None), example_id, seq)
        return self._layers(f"resid.{stage}", side, layer, lambda i: self._resid(side, stage, i, example_id, seq))

    def _resid(self, side: str, stage: str, layer: int, example_id: str, seq: int) -> np.ndarray:
        """Return the residual stream at a stage of one layer, (T, D)."""
        key = self.key(f"resid.{stage}", layer, side)
        if stage == "post_attn" and key not in self._sites and self.meta.model.stack(side).parallel:
            stream: np.ndarray = self._resid(side, "pre_attn", layer, example_id, seq).astype(np.float32)
            return stream + self.rows(Key(side, "attn_out", layer), example_id, seq)
        return self.rows(key, example_id, seq)

    def hidden(self, example_id: str, layer: int | None = None, *, seq: int = 0, side: str | None = None) -> np.ndarray:
        """Return what transformers calls `output_hidden_states`.

        `hidden[0]` is what enters the first layer, `hidden[l]` the input of layer l, and the last state is after the final
        norm. In some models (Mamba, RWKV: `arrays` says so) those of transformers begin with what leaves the first layer,
        which is `hidden[1]`.

        Args:
            example_id: The example.
            layer: Which state, 0 to L; None for all.
            seq: Which sequence of the example.
            side: The stack of the model.

        Returns:
            (T, D) for one state, (L+1, T, D) for all. Where the last one has another width (OPT-350m) they cannot be
            stacked: UsageError says which state has which.
        """
        side = self.check_side(side)
        states = 1 + self.meta.model.stack(side).n_layers
        return self._layers(
            "hidden", side, layer, lambda i: self.rows(self.key("hidden", i, side), example_id, seq), states
        )

    def attn_out(self, example_id: str, layer: int | None = None, *, seq: int = 0, side: str | None = None,
                 kind: str = "self") -> np.ndarray:  # fmt: skip
        """Return what attention adds to the residual stream: (T, D), or (L, T, D); `kind="cross"` is over the encoder's tokens."""
        side = self.check_side(side)
        prefix = self._prefix(side, kind)
        site = prefix + "attn_out"
        return self._layers(site, side, layer, lambda i: self.rows(Key(side, site, i), example_id, seq))

    def mlp_out(
        self, example_id: str, layer: int | None = None, *, seq: int = 0, side: str | None = None
    ) -> np.ndarray:
        """Return what the MLP adds to the residual stream: (T, D), or (L, T, D)."""
        side = self.check_side(side)
        return self._layers("mlp_out", side, layer, lambda i: self.rows(Key(side, "mlp_out", i), example_id, seq))

    def mlp_act(
        self, example_id: str, layer: int | None = None, *, seq: int = 0, side: str | None = None
    ) -> np.ndarray:
        """Return the MLP's activations, which its last projection reads: (T, D_mlp), or (L, T, D_mlp)."""
        side = self.check_side(side)
        return self._layers("mlp_act", side, layer, lambda i: self.rows(Key(side, "mlp_act", i), example_id, seq))

    def qkv(
        self,
        example_id: str,
        which: str,
        layer: int | None = None,
        head: int | None = None,
        *,
        seq: int = 0,
        side: str | None = None,
        kind: str = "self",
    ) -> np.ndarray:
        """Return queries, keys or values as attention receives them, after position encoding.

        Args:
            example_id: The example.
            which: `q`, `k` or `v`.
            layer: The layer; None for all.
            head: The query head; None for all. Grouped keys and values are repeated for each of their query heads.
            seq: Which sequence of the example.
            side: The stack of the model.
            kind: `self`, or `cross` for the decoder's attention over the S tokens of the encoder.

        Returns:
            (T, d_head) for one head of one layer, (H, T, d_head) without `head`, (L, …) without `layer`; cross keys and
            values have S rows in place of T.

        Raises:
            NotFoundError: `which` is none of the three.
        """
        side = self.check_side(side)
        prefix = self._prefix(side, kind)
        if which not in ("q", "k", "v"):
            raise NotFoundError("tensor of attention", which, ("q", "k", "v"))
        site = prefix + which
        return self._layers(site, side, layer, lambda i: self._heads(Key(side, site, i), head, example_id, seq))

    def attn(
        self,
        example_id: str,
        layer: int | None = None,
        head: int | None = None,
        *,
        seq: int = 0,
        side: str | None = None,
        kind: str = "self",
    ) -> np.ndarray:
        """Return attention probabilities: the stored ones where the run has them, else derived from the stored q and k.

        Args:
            example_id: The example.
            layer: The layer; None for all.
            head: The query head; None for all.
            seq: Which sequence of the example.
            side: The stack of the model.
            kind: `self`, or `cross` for the decoder's attention over the S tokens of the encoder.

        Returns:
            float32 (T, T), row i over what token i sees; (H, T, T) without `head`, (L, …) without `layer`; with
            `kind="cross"` (T, S). Rows sum to 1, or to less in a model with attention sinks.
        """
        side = self.check_side(side)
        prefix = self._prefix(side, kind)
        site = prefix + "attn"
        return self._layers(site, side, layer, lambda i: self._attn(Key(side, site, i), head, example_id, seq))

    def mcq_resid(
        self, example_id: str, choice_idx: int, stage: str = "post_mlp", layer: int | None = None
    ) -> np.ndarray:
        """Return `resid` of what the model read for a choice of a multiple-choice question.

        Args:
            example_id: The question.
            choice_idx: The choice, 0-based.
            stage: As for `resid`.
            layer: The layer; None for all.

        Returns:
            As `resid`, of the question with that choice; in a run whose tensors are of prompts (the letter decides), of the
            one prompt that holds all choices.
        """
        return self.resid(example_id, stage, layer, seq=self._choice(example_id, choice_idx))

    def mcq_hidden(self, example_id: str, choice_idx: int, layer: int | None = None) -> np.ndarray:
        """Return `hidden` of what the model read for a choice, as `mcq_resid` does."""
        return self.hidden(example_id, layer, seq=self._choice(example_id, choice_idx))

    def mcq_qkv(
        self, example_id: str, choice_idx: int, which: str, layer: int | None = None, head: int | None = None
    ) -> np.ndarray:
        """Return `qkv` of what the model read for a choice, as `mcq_resid` does."""
        return self.qkv(example_id, which, layer, head, seq=self._choice(example_id, choice_idx))

    def mcq_attn(
        self, example_id: str, choice_idx: int, layer: int | None = None, head: int | None = None
    ) -> np.ndarray:
        """Return `attn` of what the model read for a choice, as `mcq_resid` does."""
        return self.attn(example_id, layer, head, seq=self._choice(example_id, choice_idx))

    def _choice(self, example_id: str, choice_idx: int) -> int:
        """Return the number of the sequence that holds a choice.

        Raises:
            UsageError: The run has no questions, or the question has no such choice.
            NotFoundError: The run does not have the question.
        """
        if not self._table_files("choices"):
            raise UsageError(
                f"Run '{self.meta.run_id}' is of kind {self.meta.kind}: it has no multiple-choice questions."
            )
        n_seqs = self._count_sequences(example_id)
        n = len(self._example_rows("choices", ["choice_idx"], example_id))
        if not 0 <= choice_idx < n:
            raise UsageError(f"choice {choice_idx}: example {example_id} has choices 0 to {n - 1}.")
        return choice_idx if choice_idx < n_seqs else 0

    def _layers(
        self, site: str, side: str, layer: int | None, one: Callable[[int], np.ndarray], n: int | None = None
    ) -> np.ndarray:
        """Return one layer's array of a site, or those of all layers, stacked.

        Args:
            site: The site, for messages.
            side: The stack of the model.
            layer: The layer; None for all.
            one: Makes the array of a layer.
            n: The number of layers; the model's where it is left out.

        Returns:
            The array, or (n, …).

        Raises:
            UsageError: The layer does not exist, or the arrays differ in shape.
        """
        n = self.meta.model.stack(side).n_layers if n is None else n
        if layer is not None:
            self._check("layer", layer, n)
            return one(layer)
        if not n:
            raise UsageError(f"{self.meta.model.name} has no layers.")
        arrays = [one(i) for i in range(n)]
        if len({x.shape for x in arrays}) > 1:
            shapes = readable.by_layer({i: str(x.shape) for i, x in enumerate(arrays)})
            raise UsageError(
                f"{self.meta.model.name} has {site} of several shapes ({shapes}): ask for one layer at a time, with layer."
            )
        return np.stack(arrays)

    def key(self, site: str, layer: int | None, side: str | None = None) -> Key:
        """Return the key of the tensor that holds a site.

        Args:
            site: The site. `resid.pre_attn` and `hidden` of a layer are `resid.post_mlp` of the layer below.
            layer: The layer; None only for `resid.embed`.
            side: The stack of the model.

        Returns:
            The key; its tensor need not be stored.

        Raises:
            UsageError: The layer is missing or does not exist.
        """
        side = self.check_side(side)
        stack = self.meta.model.stack(side)
        if site == "resid.embed":
            return Key(side, site, None)
        if layer is None:
            raise UsageError(f"{site} has layers: say which.")
        self._check("layer", layer, stack.n_layers + (site == "hidden"))
        if site == "hidden" and layer == stack.n_layers:
            return Key(side, site, layer) if stack.final_norm else Key(side, "resid.post_mlp", layer - 1)
        if site in ("hidden", "resid.pre_attn"):
            return Key(side, "resid.post_mlp", layer - 1) if layer else Key(side, "resid.embed", None)
        return Key(side, site, layer)
