"""Chat templates of many makes: whose every character is. The spans tile the text, and what is said stands where it is said to.

The templates are written for these tests; each has something that templates of known models do.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from capture.data.transcript import parse_chat
from capture.sequences.chat import PARTS, ChatTemplate, WrittenChat
from warehouse.errors import UsageError

SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": " How far is the quay?\n"}
ANSWERED = {"role": "assistant", "content": "Two miles."}
AGAIN = {"role": "user", "content": "user"}
LAST = {"role": "assistant", "content": "Yes."}
CALLED = {
    "role": "assistant",
    "content": "I measure.",
    "tool_calls": [{"id": "1", "function": {"name": "measure", "arguments": {"to": "the quay"}}}],
}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "3200 m"}
TOOLS = [{"type": "function", "function": {"name": "measure", "parameters": {"type": "object", "properties": {}}}}]

GENERATION = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
TAGS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>\n{% endfor %}" + GENERATION
OWN_SYSTEM = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|system|>I am one.<|end|>\n{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}" + GENERATION
)
BEFORE_THE_LOOP = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set said = messages[0].content | trim %}{% set rest = messages[1:] %}"
    "{% else %}{% set said = '' %}{% set rest = messages %}{% endif %}<|system|>Today is a day.\n{{ said }}<|end|>"
    "{% for message in rest %}{{ '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}{% endfor %}"
    + GENERATION
)
IN_THE_USERS_TURN = (
    "{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ first if loop.first }}{{ m.content | trim }}</turn>\n{% endfor %}"
)
WITH_TOOLS = (
    "{% if tools %}<|tools|>{% for t in tools %}{{ t | tojson }}{% endfor %}<|end|>{% endif %}{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.reasoning_content and loop.last %}<think>\n{{ m.reasoning_content }}\n</think>\n{% endif %}{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}{% set call = call.function %}<call>{{ call.name }}({{ call.arguments | tojson }})</call>"
    "{% endfor %}<|end|>{% endfor %}"
)
FIRST_CALL_ALONE = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.tool_calls %}{% set c = m.tool_calls[0].function %}"
    '{"name": "{{ c.name }}", "parameters": {{ c.arguments | tojson }}}{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}'
)
CAPTURED = (
    "{% for m in messages %}{% set said %}{% for c in m.tool_calls or [] %}{% endfor %}{% endset %}"
    "<|{{ m.role }}|>{% if said | length > 0 %}!{% endif %}{{ m.content }}{% endfor %}"
)
LEFT_EARLY = (
    "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}<|{{ m.role }}|>{{ m.content }}"
    "{% if loop.index0 == 2 %}{% break %}{% endif %}{% endfor %}<|over|>"
)
LOOKS_AT_CONTENT = "{% for m in messages %}<|{{ m.role }}|>{% if m.content.startswith('Two') %}*{% endif %}{{ m.content }}<|end|>{% endfor %}"
WITHOUT_THINKING = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] | trim }}<|end|>{% endfor %}"
)
COUNTING = "{% for i in range(messages | length) %}<|{{ messages[i].role }}|>{{ messages[i].content }}{% endfor %}"
TEXT_ARGUMENTS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name + '(' + c.function.arguments + ')' }}{% endfor %}{% endfor %}"
)


@pytest.fixture
def write(tokenizer: Any) -> Any:
    """Writes a chat with a template."""

    def written(template: str, *messages: Any, tools: Any = None, **options: Any) -> WrittenChat:
        own = copy.copy(tokenizer)
        own.chat_template = template
        return ChatTemplate(own, "a model").write(parse_chat(list(messages), tools, "here"), "here", **options)

    return written


def told(written: WrittenChat) -> list[tuple[str | None, str | None, str]]:
    """The role, the part and the text of each run of characters of one message and part; every character is in one."""
    assert len(written.text) == len(written.turn) == len(written.part)
    edges = [0, *(np.flatnonzero(np.diff(written.turn) | np.diff(written.part)) + 1).tolist(), len(written.text)]
    spans = [(a, b, written.turn[a], written.part[a]) for a, b in pairwise(edges)]
    assert "".join(written.text[a:b] for a, b, *_ in spans) == written.text
    return [
        (written.roles[t] if t >= 0 else None, PARTS[p] if p >= 0 else None, written.text[a:b]) for a, b, t, p in spans
    ]


def test_every_character_is_of_the_message_that_says_it(write: Any) -> None:
    assert told(write(TAGS, SYSTEM, ASKED, ANSWERED, AGAIN)) == [
        ("system", None, "<|system|>"), ("system", "content", "Be brief."), ("system", None, "<|end|>\n"),
        ("user", None, "<|user|>"), ("user", "content", "How far is the quay?"), ("user", None, "<|end|>\n"),
        ("assistant", None, "<|assistant|>"), ("assistant", "content", "Two miles."), ("assistant", None, "<|end|>\n"),
        ("user", None, "<|user|>"), ("user", "content", "user"), ("user", None, "<|end|>\n"),
    ]  # fmt: skip


@pytest.mark.parametrize("template", [TAGS, LOOKS_AT_CONTENT, CAPTURED])
def test_a_message_ends_where_the_chat_without_the_next_ends(write: Any, template: str) -> None:
    """Of templates that write a message whatever comes after it, turns are also told by writing ever longer chats."""
    messages = [ASKED, ANSWERED, AGAIN, LAST]
    whole = write(template, *messages)
    ends = [len(write(template, *messages[: n + 1]).text) for n in range(len(messages))]
    assert whole.turn.tolist() == np.repeat(range(len(messages)), np.diff([0, *ends])).tolist()


def test_a_system_message_of_the_templates_own_is_nobodys(write: Any) -> None:
    written = told(write(OWN_SYSTEM, AGAIN, ANSWERED, AGAIN, answer=True))
    assert written[0] == (None, None, "<|system|>I am one.<|end|>\n")
    assert written[1:3] == [("user", None, "<|user|>"), ("user", "content", "user")]
    assert written[-1] == ("assistant", None, "<|assistant|>")
    assert told(write(OWN_SYSTEM, SYSTEM, AGAIN))[0] == ("system", None, "<|system|>")


def test_a_system_message_before_the_loop_has_what_stands_around_it(write: Any) -> None:
    written = told(write(BEFORE_THE_LOOP, SYSTEM, ASKED, ANSWERED))
    assert [role for role, _, _ in written] == ["system"] * 3 + ["user"] * 3 + ["assistant"] * 3
    assert written[1] == ("system", "content", "Be brief.")
    assert "Today" in written[0][2]
    assert told(write(BEFORE_THE_LOOP, ASKED))[0][0] is None


def test_a_system_message_in_the_users_turn_is_told_from_it(write: Any) -> None:
    written = told(write(IN_THE_USERS_TURN, SYSTEM, ASKED, ANSWERED))
    assert written[:5] == [
        ("user", None, "<turn>user\n"), ("system", "content", "Be brief."), ("user", None, "\n\n"),
        ("user", "content", "How far is the quay?"), ("user", None, "</turn>\n"),
    ]  # fmt: skip
    assert written[5] == ("assistant", None, "<turn>model\n")


def test_tools_calls_results_and_reasoning(write: Any) -> None:
    written = told(write(WITH_TOOLS, ASKED, CALLED, RESULT, LAST | {"reasoning": "Far."}, tools=TOOLS))
    assert written[0][:2] == (None, None)
    assert written[0][2].startswith("<|tools|>")
    said = [x for x in written if x[1]]
    assert said == [
        ("user", "content", "How far is the quay?"), ("assistant", "content", "I measure."),
        ("assistant", "tool_calls", '<call>measure({"to": "the quay"})</call>'), ("tool", "content", "3200 m"),
        ("assistant", "reasoning", "Far."), ("assistant", "content", "Yes."),
    ]  # fmt: skip


def test_a_call_that_no_loop_writes_has_its_name_and_its_arguments(write: Any) -> None:
    written = told(write(FIRST_CALL_ALONE, ASKED, {k: v for k, v in CALLED.items() if k != "content"}, RESULT))
    assert [text for _, part, text in written if part == "tool_calls"] == ["measure", '{"to": "the quay"}']


def test_arguments_are_given_as_a_text_where_a_template_wants_one(write: Any) -> None:
    written = told(write(TEXT_ARGUMENTS, ASKED, CALLED))
    assert ("assistant", "tool_calls", 'measure({"to": "the quay"})') in written


def test_reasoning_that_a_template_leaves_out_of_earlier_turns_is_no_fault(write: Any) -> None:
    written = write(WITH_TOOLS, ASKED, ANSWERED | {"reasoning": "Hm."}, AGAIN, LAST)
    assert "Hm." not in written.text
    assert not (written.part == PARTS.index("reasoning")).any()
    thought = ANSWERED | {"content": "<think>Hm.</think>\n\nTwo miles."}
    assert ("assistant", "content", "Two miles.") in told(write(WITHOUT_THINKING, ASKED, thought, AGAIN))


def test_what_follows_a_loop_is_nobodys_however_it_was_left(write: Any) -> None:
    assert told(write(LEFT_EARLY, AGAIN, ANSWERED, AGAIN)) == [
        ("user", None, "<|user|>"), ("user", "content", "user"),
        ("assistant", None, "<|assistant|>"), ("assistant", "content", "Two miles."),
        ("user", None, "<|user|>"), ("user", "content", "user"), (None, None, "<|over|>"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("template", "messages", "tools", "said"),
    [
        (
            TAGS,
            [ASKED, ANSWERED | {"reasoning": "Hm."}],
            None,
            r"leaves out the reasoning of message 1 \(role assistant\)",
        ),
        (TAGS, [ASKED, CALLED], None, r"leaves out the tool call of message 1 \(role assistant\)"),
        (TAGS, [ASKED], TOOLS, "leaves out the tools"),
        (LEFT_EARLY, [SYSTEM, ASKED], None, r"leaves out the content of message 0 \(role system\)"),
        (IN_THE_USERS_TURN, [ASKED, AGAIN], None, "refuses this chat: roles must alternate"),
        (COUNTING, [ASKED], None, "does not go through the messages in a loop"),
        ("{{ messages[0].none.x }}", [ASKED], None, "refuses this chat"),
        (TAGS, [{"role": "user", "content": "\U000f0001"}], None, "characters of the private plane 15"),
    ],
)
def test_a_template_that_cannot_say_it_is_refused_with_what_it_misses(
    write: Any, template: str, messages: list[Any], tools: Any, said: str
) -> None:
    with pytest.raises(UsageError, match=f"here: the chat.*{said}"):
        write(template, *messages, tools=tools)


def test_a_tokenizer_without_template_or_offsets_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UsageError, match="a model has no chat template"):
        ChatTemplate(tokenizer, "a model")
    slow = type("Slow", (), {"chat_template": TAGS, "is_fast": False})()
    with pytest.raises(UsageError, match="Slow gives no character offsets"):
        ChatTemplate(slow, "a model")
