"""What a decoder's sequences begin with: the tokenizer's own BOS, a BOS in any case, or none (`--prepend-bos`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from warehouse.errors import UsageError

PREPEND_BOS = ("auto", "yes", "no")
"""What `--prepend-bos` takes."""


@dataclass(frozen=True)
class BosPolicy:
    """What a decoder's sequences are to begin with."""

    mode: str = "auto"
    """`auto`: what the tokenizer adds; `yes`: a BOS in any case; `no`: none."""
    id: int | None = None
    """The token that `yes` puts before a text where the tokenizer puts none there."""


AUTO_BOS = BosPolicy()


def resolve_bos(loaded: Any, mode: str) -> BosPolicy:
    """Find the BOS token of a model that `--prepend-bos` asks for.

    It is the BOS that tokenizer or configuration names, else their EOS, which separated the texts that such models were trained
    on.

    Args:
        loaded: A decoder, as `capture.model.loading.load` returns it.
        mode: One of `PREPEND_BOS`.

    Returns:
        The policy, with the token's id where `mode` is `yes`.

    Raises:
        UsageError: The model names neither token.
    """
    if mode != "yes":
        return BosPolicy(mode)
    configs = (getattr(loaded.model, "generation_config", None), loaded.model.config.get_text_config())
    size = loaded.model.get_input_embeddings().weight.shape[0]
    for name in ("bos_token_id", "eos_token_id"):
        for place in (loaded.tokenizer, *configs):
            token = getattr(place, name, None)
            token = token[0] if isinstance(token, list | tuple) and token else token
            if isinstance(token, int) and 0 <= token < size:
                return BosPolicy(mode, token)
    raise UsageError(f"--prepend-bos yes: {loaded.name} names neither a BOS nor an EOS token that its embedding has.")


def check_chat_template_bos(bos: BosPolicy, name: str) -> None:
    """Check that the policy is `auto` where a chat template says what a prompt begins with.

    Args:
        bos: The policy.
        name: The model's name, for the message.

    Raises:
        UsageError: The policy asks for a BOS, or for none.
    """
    if bos.mode != "auto":
        raise UsageError(
            f"--prepend-bos {bos.mode}: the chat template of {name} says what a prompt begins with. Leave the option out."
        )
