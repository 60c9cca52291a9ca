"""Recording without a run: tensors of a model while the user calls it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from capture.api.arguments import check_loaded

if TYPE_CHECKING:
    import torch

    from capture.model.loading import Loaded


@contextmanager
def record(model: Loaded, sites: str) -> Iterator[dict[tuple[str, int | None], torch.Tensor]]:
    """Listen to a model while it is called, and keep nothing on disk.

    Tensors come as the model has them: padded, on its device, in its dtype, and with their gradients' graph where there is one.
    They are copies, so that changing them changes nothing in the model. Attention is then computed step by step (`eager`), since
    the faster ways never have its probabilities.

    Example:
        with capture.record(model, "resid.post_mlp@15,attn@3") as seen:
            model.hf(**model.tokenizer("The lamp", return_tensors="pt").to(model.hf.device))
        seen["resid.post_mlp", 15].shape  # (1, T, D)

    Args:
        model: A model, from `load` or `wrap`.
        sites: Sites with layers: `resid.post_mlp@15`, `q@3,8`, `attn@mid`, `hidden@last`, `mlp_out` (of all layers), `resid`
            (every stage). `enc.` before a name means an encoder-decoder's encoder.

    Yields:
        A dict of torch tensors by (site, layer): (B, T, D) of the residual stream, `hidden`, `attn_out` and `mlp_out`, (B, T, H,
        d_head) of q, k and v, (B, H, T, S) of attention. The layer of `resid.embed` is None. Each forward pass fills it anew.

    Raises:
        UsageError: The model has no such site or layer; the message says why.
        NotFoundError: There is no site of that name.
    """
    loaded = check_loaded(model)
    from capture.recording.live import listen, parse_sites, resolve

    names = resolve(loaded.anatomy, parse_sites(sites), loaded.name)
    with listen(loaded.anatomy, names, loaded.name) as seen:
        yield seen
