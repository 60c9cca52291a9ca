"""Tiny tokenizers of the kinds that models come with: what they do to a text before they cut it, and what they put around it."""

from __future__ import annotations

from collections.abc import Callable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
ODD = [
    "The ﬁne ﬂame of ₂ lamps, 𝒳 and ℌ, ½ a ㎞, ① to Ⅻ, No. № 5™",
    "Crème brûlée à la façon de Zoë, İstanbul, STRASSE and Straße, ǆ, ſlow",
    "zero\u200bwidth, soft\u00adhyphen, joi\u200dned, \ufeffmark, e\u0301 and a\u0323\u0301",
    "an 👩\u200d👩\u200d👧 emoji 🇩🇪 and 👍🏽, 漢字 and かな, עברית, हिन्दी",
    "tabs\tand   spaces  , a\r\nline break\nand\x0ban\xa0odd\u3000one ",
    "  leading, #hash ##marks, ▁mark and __name__, 3.14 and １２３, don't",
    "nul\x00here, \x1bescape, \ufffd, a|b-c_d~e<f>, </s> and <s> in it",
    "…",
]
"""Texts that tokenizers change, or count in other ways than people do."""


def _template(tokenizer: Tokenizer, single: str, pair: str) -> None:
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


def bert(lines: list[str]) -> Tokenizer:
    """Lower case, accents and control characters gone, [CLS] and [SEP]."""
    t = Tokenizer(models.WordPiece(unk_token="<unk>"))
    t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    t.train_from_iterator(lines, trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL))
    _template(t, "<s> $A </s>", "<s> $A </s> $B:1 </s>:1")
    return t


def t5(lines: list[str]) -> Tokenizer:
    """NFKC and single spaces, a mark for the space before a word, a closing token."""
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer, t.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    t.train_from_iterator(lines, trainers.UnigramTrainer(vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>"))
    _template(t, "$A </s>", "$A </s> $B </s>")
    return t


def albert(lines: list[str]) -> Tokenizer:
    """NFKD, accents stripped, lower case, zero-width characters and hyphens gone."""
    t = t5(lines)
    t.normalizer = normalizers.Sequence(
        [
            normalizers.Nmt(),
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex("[-\u200b-\u200d\ufeff\u00ad]"), ""),
        ]
    )
    return t


def llama(lines: list[str]) -> Tokenizer:
    """Bytes for what it does not know, spaces as marks by its normalizer, a BOS."""
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    octets = [f"<0x{i:02X}>" for i in range(256)]
    t.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=700, special_tokens=[*SPECIAL, *octets]))
    _template(t, "<s> $A", "<s> $A <s> $B")
    return t


def clip(lines: list[str]) -> Tokenizer:
    """NFC, single spaces and lower case, bytes, a mark for a word's end."""
    t = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    t.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"'s|'t|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    t.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=SPECIAL, initial_alphabet=alphabet, end_of_word_suffix="</w>"
    )
    t.train_from_iterator(lines, trainer)
    _template(t, "<s> $A </s>", "<s> $A </s> $B </s>")
    return t


KINDS: dict[str, Callable[[list[str]], Tokenizer]] = {k.__name__: k for k in (bert, t5, albert, llama, clip)}


def made(kind: str, lines: list[str]) -> PreTrainedTokenizerFast:
    bos = {"bos_token": "<s>"} if kind == "llama" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=KINDS[kind](lines), pad_token="<pad>", unk_token="<unk>", eos_token="</s>", **bos
    )


def of_words(texts: list[str], digits: int) -> PreTrainedTokenizerFast:
    """Bytes as GPT-2 has them: every word of the texts is one token, with the space before it, and so are up to `digits` digits."""
    t = Tokenizer(models.BPE())
    pattern = Regex(rf"\d{{1,{digits}}}| ?[^\s\d.,]+|[.,]| ")
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    t.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=20_000, special_tokens=["<pad>"], initial_alphabet=alphabet)
    t.train_from_iterator([*texts, *(f"{n:0{digits}d}" for n in range(10**digits))], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=t, pad_token="<pad>")
