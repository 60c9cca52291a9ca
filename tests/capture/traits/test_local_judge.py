"""A local judge: its probabilities are those of whole numbers, however its tokenizer splits them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from judge_server import CHAT_TEMPLATE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from capture.model.loading import Loaded
from capture.traits.judge import JudgeRequestError
from capture.traits.local_judge import LocalJudge


def made_tokenizer(words: list[str], chat: bool) -> PreTrainedTokenizerFast:
    """Cuts text into these words, the longest first, and single characters; BPE with merges that make each word."""
    alphabet = [chr(c) for c in range(32, 127)] + ["\n"]
    special = ["<pad>", "<|user|>", "<|assistant|>", "<|end|>"]
    merges, pieces = [], dict.fromkeys(alphabet)
    for word in sorted(words, key=len):
        for n in range(2, len(word) + 1):
            if word[:n] not in pieces:
                pieces[word[:n]] = None
                merges.append((word[: n - 1], word[n - 1]))
    vocabulary = {token: i for i, token in enumerate([*special, *pieces])}
    t = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    t.pre_tokenizer = (
        pre_tokenizers.Split("", "isolated") if not words else pre_tokenizers.Digits(individual_digits=False)
    )
    t.decoder = decoders.Fuse()
    t.add_special_tokens(special)
    found = PreTrainedTokenizerFast(tokenizer_object=t, pad_token="<pad>", eos_token="<|end|>")
    if chat:
        found.chat_template = CHAT_TEMPLATE
    return found


TOKENIZERS = {
    "digit by digit": [],
    "number by number": [str(n) for n in range(1000)],
    "two digits at most": [str(n) for n in range(100)],
}


@pytest.fixture
def local(make_llama: Callable[..., LlamaForCausalLM]) -> Callable[..., LocalJudge]:
    """A random model with such a tokenizer. Its weights are scaled up, for probabilities that are far from equal."""

    def make(kind: str = "digit by digit", chat: bool = True, **config: object) -> LocalJudge:
        tokenizer = made_tokenizer(TOKENIZERS[kind], chat)
        model = make_llama(vocab_size=len(tokenizer), max_position_embeddings=512, **config)
        with torch.no_grad():
            model.lm_head.weight.mul_(20)
        return LocalJudge("local:made", Loaded(model, tokenizer, "made", None, "cpu", False))

    return make


def by_hand(judge: LocalJudge, prompt: str) -> dict[int, float]:
    """Every number's probability, from whole texts one by one through the model itself."""
    start = judge._token_ids(prompt)
    space = "" if judge._tokenizer.chat_template else " "
    digits = [i for token, i in judge._tokenizer.get_vocab().items() if token[0].isdigit()]
    found = {}
    for n in range(101):
        ids = judge._token_ids(prompt, f"{space}{n}")
        with torch.no_grad():
            probs = judge._model(torch.tensor(ids)[None]).logits[0].double().softmax(-1)
        steps = [probs[i - 1, ids[i]] for i in range(len(start), len(ids))]
        found[n] = float(torch.stack(steps).prod() * (1 - probs[-1, digits].sum()))
    return found


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "no chat"])
@pytest.mark.parametrize(
    ("kind", "rows"), [("digit by digit", 102), ("number by number", 102), ("two digits at most", 102)]
)
def test_a_local_judges_probabilities_are_those_of_whole_numbers(
    local: Callable, kind: str, rows: int, chat: bool
) -> None:
    judge = local(kind, chat)
    prompt = "What do 3 lamps cost?"
    assert judge._single_pass
    assert len(judge._tree.rows) == rows + (not chat)  # without a template, the space before the number is a token
    expected = by_hand(judge, prompt)
    found = judge._probabilities(judge._log_probs(judge._token_ids(prompt)))
    assert found.keys() == expected.keys()
    for n in found:
        assert found[n] == pytest.approx(expected[n], rel=1e-3, abs=1e-9)  # float32, in another order
    mass = sum(expected.values())
    assert 0 < mass <= 1 + 1e-6
    verdict = judge.ask(prompt)
    assert verdict.number_mass == pytest.approx(mass, rel=1e-4)
    if mass >= 0.25:
        assert verdict.score == pytest.approx(sum(n * p for n, p in expected.items()) / mass, rel=1e-4)
    else:
        assert verdict.score is None


def test_a_model_that_is_sure_is_read_as_sure(local: Callable) -> None:
    """Digit by digit, the head made to say 8, then 5, then the end: the score is 85, not that of the first digit."""
    judge = local()
    ids = judge._tokenizer.convert_tokens_to_ids
    order = [ids("8"), ids("5"), ids("<|end|>")]
    after = {ids("<|assistant|>"): order[0], ids("8"): order[1], ids("5"): order[2]}
    model = judge._model
    with torch.no_grad():  # no block changes the stream: what comes next depends on the token alone
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        for token, following in after.items():
            x = model.model.embed_tokens.weight[token]
            model.lm_head.weight[following] += 10 * x / x.norm()
    found = judge.ask("How much?")
    assert found.answer == "85"
    assert (found.scored_by, found.rule) == ("probabilities", "whole")
    assert found.number_mass > 0.9
    assert found.score == pytest.approx(85, abs=1)


def test_numbers_read_apart_give_the_same(local: Callable) -> None:
    judge = local()
    ids = judge._token_ids("How much?")
    together = judge._log_probs(ids)
    judge._single_pass = False
    assert torch.allclose(together, judge._log_probs(ids), atol=1e-4)


def test_a_prompt_beyond_a_sliding_window_is_read_apart() -> None:
    """A tree in one sequence shares a mask, which a window would have to cut differently."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    tokenizer = made_tokenizer([], True)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    model = MistralForCausalLM(MistralConfig(vocab_size=len(tokenizer), sliding_window=8, **sizes)).eval()
    judge = LocalJudge("local:made", Loaded(model, tokenizer, "made", None, "cpu", False))
    prompt = "A prompt of more tokens than the window has."
    expected = by_hand(judge, prompt)
    found = judge._probabilities(judge._log_probs(judge._token_ids(prompt)))
    for n in found:
        assert found[n] == pytest.approx(expected[n], rel=1e-3, abs=1e-9)


def test_a_prompt_that_is_longer_than_the_window_is_not_cut(local: Callable) -> None:
    with pytest.raises(JudgeRequestError, match="the judging prompt has .* tokens, and the model reads 512") as caught:
        local().ask("word " * 600)
    assert not caught.value.retryable


@pytest.mark.slow
def test_the_packaged_model_as_a_local_judge(smollm2: Loaded) -> None:
    """Its numbers are cut digit by digit: 102 states, from one pass."""
    judge = LocalJudge("local:smollm2", smollm2)
    assert (judge._single_pass, len(judge._tree.rows)) == (True, 102)
    found = judge.ask("Say a number from 0 to 100, and nothing else.")
    greedy = judge._model.generate(
        torch.tensor(judge._token_ids("Say a number from 0 to 100, and nothing else."))[None],
        max_new_tokens=8,
        do_sample=False,
    )
    said = judge._tokenizer.decode(greedy[0], skip_special_tokens=True)
    assert said.rstrip().endswith(found.answer)
    assert 0 < found.number_mass <= 1
