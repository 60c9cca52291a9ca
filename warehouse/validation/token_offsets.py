"""Whether tokens stand in the text where their offsets say: what `validate` holds against every token of a run.

A tokenizer that leaves a text as it is gives words that stand in it letter by letter. One that normalises it first (folds case or
accents, writes `ﬁ` and `𝒳` as `fi` and `x`, drops what it does not know) gives letters that follow from those in the text, and
its examples are marked `altered`: of those, the letters are compared after the same foldings.
"""

from __future__ import annotations

import unicodedata

from warehouse.schema.quoting import sql_text
from warehouse.storage.trace_store import TraceStore
from warehouse.validation.check import ValidationFailure, expect, select, select_number

_MARKS = " #▁"
"""What tokenizers put before a token to say whether a word begins there."""


def tokens_against_text(store: TraceStore) -> str | None:
    """Offsets lie in the text and go forward, and a plain word stands in the text where its offsets say. Raises ValidationFailure."""
    if not store.meta.counts.rows.get("tokens"):
        return None
    column = store.meta.options.get("target_column")
    target = f"metadata::JSON ->> {sql_text(column)}" if column else "NULL"
    tokens = (
        "SELECT t.example_id, t.seq, side, pos, token, char_start, char_end, altered, "
        f"if(side = 'dec' AND {bool(column)}, {target}, coalesce(p.text, e.text)) AS text "
        "FROM tokens AS t JOIN examples AS e USING (example_id) LEFT JOIN prompts AS p USING (example_id, seq)"
    )
    bad = select(
        store,
        f"SELECT example_id, seq, pos FROM ({tokens}) "
        "WHERE char_start < 0 OR char_end < char_start OR char_end > length(text) LIMIT 1",
    )
    expect(not bad, f"offsets outside the text: {bad}")
    bad = select(
        store,
        "SELECT example_id, seq, pos FROM (SELECT example_id, seq, pos, char_start, "
        "lag(char_start) OVER (PARTITION BY example_id, side, p.text ORDER BY seq, pos) AS before "
        "FROM tokens LEFT JOIN prompts AS p USING (example_id, seq) WHERE NOT coalesce(is_context, false)) "
        "WHERE char_start < before LIMIT 1",
    )
    expect(not bad, f"offsets that go backward: {bad}")
    own = f"trim(token, {sql_text(_MARKS)})"
    word = f"regexp_matches({own}, '^[A-Za-z0-9]+$') AND char_start IS NOT NULL"
    found = store.query(
        f"SELECT example_id, seq, pos, {own} AS own, here, altered FROM "
        f"(SELECT *, text[char_start + 1 : char_end] AS here FROM ({tokens}) WHERE {word}) "
        f"WHERE trim(here, {sql_text(_MARKS)}) <> own AND NOT (altered AND strip_accents(lower(trim(here))) = lower(own))"
    )
    while rows := found.fetchmany(4096):
        for example_id, seq, pos, token, here, altered in rows:
            if not matches_text(token, here, altered):
                raise ValidationFailure(
                    f"a token that is not what stands in the text: {[(example_id, seq, pos, token, here)]}"
                )
    count = select_number(store, f"SELECT count(*) FROM tokens WHERE {word}")
    return f"{count:,.0f} words stand where their offsets say"


def matches_text(token: str, here: str, altered: bool) -> bool:
    """Whether a word of ASCII letters and digits can be what a tokenizer made of these characters of a text.

    Where it altered the text, characters may have been folded (NFKD, case, marks), one may have become several of which the
    token holds a part, and some may have been dropped; what is no ASCII letter or digit even when folded may have become any.
    """
    if here.strip().strip(_MARKS) == token:
        return True
    if not altered:
        return False
    token, written = token.lower(), [_fold(c) for c in here]
    if sum(bool(letters) for letters in written) > 2 * len(token):
        return False  # more was dropped than is left
    reached = {0}  # how much of the token the characters so far can have given
    for letters in written:
        if letters is None:
            reached = set(range(min(reached), len(token) + 1))
        for letter in letters or "":
            reached |= {at + 1 for at in reached if token[at : at + 1] == letter}
    return len(token) in reached


def _fold(character: str) -> str | None:
    """The ASCII letters and digits that a character is when folded: none for white space, marks and what is not printed; None
    where it is another character.
    """
    folded = unicodedata.normalize("NFKD", character).casefold()
    letters = "".join(c for c in folded if c.isascii() and c.isalnum())
    nothing = all(c.isspace() or unicodedata.category(c)[0] in "MC" for c in folded)
    return letters if letters or nothing else None
