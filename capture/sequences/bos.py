"""What a decoder's sequences begin with: the tokenizer's own BOS, a BOS in any case, or none (`--prepend-bos`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from warehouse.errors import UsageError

PREPEND_BOS = ("auto", "yes", "no")
"""What `--prepend-bos` takes."""


@dataclass(frozen=True)
class BosPolicy:
    """What the sequences of a decoder are to begin with."""

    mode: str = "auto"
    """`auto`: what the tokenizer gives; `yes`: a BOS in any case; `no`: none."""
    id: int | None = None
    """The token that `yes` puts before a text where the tokenizer puts none there."""


AUTO_BOS = BosPolicy()


def resolve_bos(loaded: Any, mode: str) -> BosPolicy:
    """What `--prepend-bos` asks of a decoder (a `models.Loaded`): its BOS as tokenizer or configuration name it, else its EOS,
    which parted the texts that such models were trained on. Raises UsageError where it has neither.
    """
    if mode != "yes":
        return BosPolicy(mode)
    configs = (getattr(loaded.model, "generation_config", None), loaded.model.config.get_text_config())
    size = loaded.model.get_input_embeddings().weight.shape[0]
    for name in ("bos_token_id", "eos_token_id"):
        for place in (loaded.tokenizer, *configs):
            found = getattr(place, name, None)
            found = found[0] if isinstance(found, list | tuple) and found else found
            if isinstance(found, int) and 0 <= found < size:
                return BosPolicy(mode, found)
    raise UsageError(f"--prepend-bos yes: {loaded.name} names neither a BOS nor an EOS token that its embedding has.")


def check_chat_template_bos(bos: BosPolicy, name: str) -> None:
    """Raises UsageError where a BOS is asked for, or none, of a model whose chat template says what a prompt begins with."""
    if bos.mode != "auto":
        raise UsageError(
            f"--prepend-bos {bos.mode}: the chat template of {name} says what a prompt begins with. Leave the option out."
        )
