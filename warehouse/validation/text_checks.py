"""Check that tokens, annotated words and messages stand in the text where their offsets say.

A tokenizer that leaves a text as it is gives words that stand in it letter by letter. One that normalises it first (folds case or
accents, writes `ﬁ` and `𝒳` as `fi` and `x`, drops what it does not know) gives letters that follow from those in the text. Its
examples are marked `altered`; their letters are compared after the same foldings.
"""

from __future__ import annotations

import unicodedata

from warehouse.schema.quoting import sql_text
from warehouse.storage.trace_store import TraceStore
from warehouse.validation.check import (
    Portion,
    ValidationFailure,
    expect,
    expect_no_row,
    portions,
    select,
    select_number,
)

_MARKS = " #▁"
"""Characters that tokenizers put before a token to mark that a word begins, or goes on, there."""


def check_tokens(store: TraceStore) -> str | None:
    """Check every token against the text: offsets lie in it and go forward, and plain words stand where their offsets say.

    Args:
        store: The run.

    Returns:
        What was looked at; None for a run without tokens.

    Raises:
        ValidationFailure: With the first token that is wrong.
    """
    if not store.meta.counts.rows.get("tokens"):
        return None
    options = store.meta.options
    windows = bool(options.get("chunk")) or options.get("stride") is not None
    count = sum(_check_portion(portion, options.get("target_column"), windows) for portion in portions(store))
    return f"{count:,.0f} words stand where their offsets say"


def _check_portion(portion: Portion, column: str | None, windows: bool) -> float:
    """Check the tokens of some of a run's examples, whose sequences may be windows of one text; return how many words they are."""
    target = f"metadata::JSON ->> {sql_text(column)}" if column else "NULL"
    tokens = (
        "SELECT t.example_id, t.seq, side, pos, token, char_start, char_end, altered, "
        f"if(side = 'dec' AND {bool(column)}, {target}, coalesce(p.text, e.text)) AS text "
        "FROM tokens AS t JOIN examples AS e USING (example_id) LEFT JOIN prompts AS p USING (example_id, seq)"
    )
    bad = select(
        portion,
        f"SELECT example_id, seq, pos FROM ({tokens}) "
        "WHERE char_start < 0 OR char_end < char_start OR char_end > length(text) LIMIT 1",
    )
    expect(not bad, f"offsets outside the text: {bad}")
    of_text = "example_id, side, p.text" if windows else "example_id, side, seq"
    bad = select(
        portion,
        "SELECT example_id, seq, pos FROM (SELECT example_id, seq, pos, char_start, "
        f"lag(char_start) OVER (PARTITION BY {of_text} ORDER BY seq, pos) AS before "
        "FROM tokens LEFT JOIN prompts AS p USING (example_id, seq) WHERE NOT coalesce(is_context, false)) "
        "WHERE char_start < before LIMIT 1",
    )
    expect(not bad, f"offsets that go backward: {bad}")
    own = f"trim(token, {sql_text(_MARKS)})"
    word = f"regexp_matches({own}, '^[A-Za-z0-9]+$') AND char_start IS NOT NULL"
    suspects = portion.query(  # most tokens are what stands in the text letter by letter, which is the cheapest test
        f"SELECT example_id, seq, pos, {own} AS own, here, altered FROM "
        f"(SELECT *, substring(text, char_start + 1, char_end - char_start) AS here FROM ({tokens})) "
        f"WHERE here <> token AND {word} "
        f"AND trim(here, {sql_text(_MARKS)}) <> own AND NOT (altered AND strip_accents(lower(trim(here))) = lower(own))"
    )
    while rows := suspects.fetchmany(4096):
        for example_id, seq, pos, token, here, altered in rows:
            if not matches_text(token, here, altered):
                raise ValidationFailure(
                    f"a token that is not what stands in the text: {[(example_id, seq, pos, token, here)]}"
                )
    spelled = "SELECT token, count(char_start) AS n, 0 AS char_start FROM tokens GROUP BY token"
    return select_number(portion, f"SELECT coalesce(sum(n), 0) FROM ({spelled}) WHERE {word}")


def matches_text(token: str, here: str, altered: bool) -> bool:
    """Tell whether a word can be what a tokenizer made of some characters of a text.

    Args:
        token: A word of ASCII letters and digits.
        here: The characters that its offsets name.
        altered: Whether the tokenizer altered the text. Then characters may have been folded (NFKD, case, marks), one may have
            become several of which the token holds a part, and some may have been dropped. A character that is no ASCII letter or
            digit even when folded may have become any.

    Returns:
        Whether it can.
    """
    if here.strip().strip(_MARKS) == token:
        return True
    if not altered:
        return False
    token, written = token.lower(), [_fold(c) for c in here]
    if sum(bool(letters) for letters in written) > 2 * len(token):
        return False  # more was dropped than is left
    reached = {0}  # lengths of the token's beginning that the characters so far can have become
    for letters in written:
        if letters is None:
            reached = set(range(min(reached), len(token) + 1))
        for letter in letters or "":
            reached |= {at + 1 for at in reached if token[at : at + 1] == letter}
    return len(token) in reached


def _fold(character: str) -> str | None:
    """Return the ASCII letters and digits that a character becomes when folded.

    Args:
        character: One character.

    Returns:
        The letters: none for white space, marks and unprinted characters; None where the character becomes something else.
    """
    folded = unicodedata.normalize("NFKD", character).casefold()
    letters = "".join(c for c in folded if c.isascii() and c.isalnum())
    nothing = all(c.isspace() or unicodedata.category(c)[0] in "MC" for c in folded)
    return letters if letters or nothing else None


def check_words(store: TraceStore) -> str | None:
    """Check that words stand in the text where they say, and that a token shares characters with the word that it names."""
    if not store.meta.counts.rows.get("words"):
        return None
    tests = {
        "a word that is not what stands in the text": "SELECT example_id, word_idx FROM words JOIN examples USING (example_id) "
        "WHERE multiword IS NULL AND char_start IS NOT NULL AND text[char_start + 1 : char_end] <> form",
        "a word whose head is none of its sentence": "SELECT w.example_id, w.word_idx FROM words AS w LEFT JOIN words AS h "
        "ON h.example_id = w.example_id AND h.word_idx = w.head WHERE w.head IS NOT NULL AND h.word_idx IS NULL",
        "a token that has no character of its word": "SELECT t.example_id, t.seq, t.pos FROM tokens AS t LEFT JOIN words AS w "
        "USING (example_id, word_idx) WHERE t.word_idx IS NOT NULL "
        "AND NOT coalesce(t.char_start < w.char_end AND w.char_start < t.char_end, false)",
        "a token of no word, with a character of one": "SELECT t.example_id, t.seq, t.pos FROM tokens AS t JOIN words AS w "
        "ON w.example_id = t.example_id AND t.char_start < w.char_end AND w.char_start < t.char_end "
        f"WHERE t.word_idx IS NULL AND t.side = '{'enc' if store.meta.model.encoder else store.meta.model.side}'",
    }
    for portion in portions(store):
        expect_no_row(portion, tests)
    return f"{store.meta.counts.rows['words']:,} words, {len(tests)} conditions"


def check_chats(store: TraceStore) -> str | None:
    """Check that every token of a chat has the role of its message, and that what is said stands in the message."""
    if not store.meta.counts.rows.get("messages"):
        return None
    said = "CASE t.part WHEN 'content' THEN m.content ELSE m.reasoning END"
    # of one chat all sequences are parts, of several each is one
    joined = (
        "tokens AS t LEFT JOIN (SELECT *, max(seq) OVER (PARTITION BY example_id) AS last FROM messages) AS m "
        "ON m.example_id = t.example_id AND m.turn = t.turn AND (m.seq = t.seq OR m.last = 0)"
    )
    here = "substring(coalesce(p.text, e.text), t.char_start + 1, t.char_end - t.char_start)"
    first = rf"coalesce(nullif(regexp_extract({here}, '[^\s\p{{Z}}]'), ''), left({here}, 1))"
    tests = {
        "a token with a role and no message, or the other way about": "SELECT example_id, seq, pos FROM tokens "
        "WHERE (role IS NULL) <> (turn IS NULL) OR (part IS NOT NULL AND turn IS NULL)",
        "a token whose role is not its message's": f"SELECT t.example_id, t.seq, t.pos FROM {joined} WHERE m.role <> t.role "
        "OR (t.turn IS NOT NULL AND m.role IS NULL AND t.turn <> "
        "(SELECT max(turn) + 1 FROM messages AS n WHERE n.example_id = t.example_id))",
        "a token that is not in what its message says": f"SELECT t.example_id, t.seq, t.pos FROM {joined} "
        "JOIN examples AS e ON e.example_id = t.example_id LEFT JOIN prompts AS p ON p.example_id = t.example_id AND p.seq = t.seq "
        "WHERE m.turn IS NOT NULL AND t.part IS NOT NULL AND t.part <> 'tool_calls' "
        f"AND NOT coalesce(contains({said}, {first}), false)",
        "a part that is none": "SELECT example_id, seq, pos FROM tokens "
        "WHERE part NOT IN ('content', 'reasoning', 'tool_calls')",
    }
    for portion in portions(store):
        expect_no_row(portion, tests)
    return f"{store.meta.counts.rows['messages']:,} messages, {len(tests)} conditions"
