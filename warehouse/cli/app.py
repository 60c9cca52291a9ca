"""The classes that `traces` builds its commands from: typer's, with examples to copy and refusals that say what was meant.

A command's docstring ends in a section `Examples:` with one command a line. `--help` prints it unfolded, and the reference
has it as a block of code; sections for readers of the code (`Args:`, `Raises:`) are in neither.
"""

from __future__ import annotations

import difflib
import re
import shlex
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from warehouse.cli.option_groups import Panel
from warehouse.errors import UsageError

_SECTION = re.compile(r"\n\n(Args|Returns|Raises|Examples):\n")
_WORDS = "traces.words"
"""Where a context has the words of its command line."""
_SQL = re.compile(r"select|from|with|values|summarize|describe|pivot", re.IGNORECASE)
"""What a query begins with."""

if TYPE_CHECKING:
    _Base = TyperCommand
else:
    _Base = object  # the class that comes after _Shown: TyperCommand or TyperGroup

Refusal: type[Exception] = typer.BadParameter.__mro__[2]
"""The base of all of typer's complaints about a command line, whether click is part of typer or beside it."""


class _Shown(_Base):
    """What commands and groups of commands share: how their help is made of a docstring."""

    def __init__(self, *args: Any, help: str | None = None, epilog: str | None = None, **settings: Any) -> None:
        text, *rest = _SECTION.split(help or "")
        sections = dict(zip(rest[::2], rest[1::2], strict=True))
        self.examples = textwrap.dedent(sections.get("Examples", "")).split("\n") if "Examples" in sections else []
        self.examples = [line for line in self.examples if line]
        if self.examples:
            epilog = "\n".join(["**Examples**:", "", "```sh", *self.examples, "```"])
        super().__init__(*args, help=text, epilog=epilog, **settings)

    def get_help_option(self, ctx: Any) -> Any:
        """Return `--help` itself, shown last, among the options that every command has.

        Args:
            ctx: The command's context.
        """
        option = super().get_help_option(ctx)
        if option is not None:
            option.rich_help_panel = Panel.GENERAL.value
        return option

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, and after it the examples as they are typed: a folded line cannot be copied.

        Args:
            ctx: The command's context.
            formatter: Where typer collects help that it does not print itself.
        """
        epilog, self.epilog = self.epilog, None if self.examples else self.epilog
        super().format_help(ctx, formatter)
        self.epilog = epilog
        if self.examples:
            typer.echo("\n".join(["Examples:", *(f"  {line}" for line in self.examples), ""]))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse a command line, and keep its words for messages about it.

        Args:
            ctx: The command's context, which takes the values.
            args: The words after the command's name.

        Returns:
            The words that no parameter took.
        """
        ctx.meta[_WORDS] = list(args)
        return super().parse_args(ctx, args)


class Command(_Shown, TyperCommand):
    """A command whose options are ordered by their panels, and that says what a surplus word was meant to be."""

    def __init__(self, *args: Any, params: list[Any] | None = None, **settings: Any) -> None:
        places = {panel.value: place for place, panel in enumerate(Panel)}
        ordered = sorted(params or [], key=lambda p: places.get(p.rich_help_panel, -1))
        super().__init__(*args, params=ordered, **settings)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse a command line.

        Args:
            ctx: The command's context, which takes the values.
            args: The words after the command's name.

        Returns:
            The words that no parameter took, for a command that takes any.

        Raises:
            UsageError: There are words that no parameter takes; the message says what they were meant to be.
        """
        takes_any, ctx.allow_extra_args = ctx.allow_extra_args, True
        rest = super().parse_args(ctx, args)
        if rest and not takes_any and not ctx.resilient_parsing:
            raise UsageError(self._surplus_message(ctx, [str(word) for word in rest]))
        return rest

    def _surplus_message(self, ctx: Any, rest: list[str]) -> str:
        """Return the message about words that no parameter takes: a query without quotes, a list without commas."""
        query = next((p for p in self.params if p.name == "query" and p.param_type_name == "argument"), None)
        if query is not None and _SQL.fullmatch(str(ctx.params.get("query"))):
            text = " ".join(_as_typed([ctx.params["query"], *rest]))
            quoted = f'"{text}"' if not set('"$`\\') & set(text) else shlex.quote(text)
            return f"A query is one word for the shell: put it in quotes. {ctx.command_path} {quoted}"
        surplus = " ".join(rest)
        return _list_hint(ctx, rest) or f"{ctx.command_path} takes no '{surplus}' here. See {ctx.command_path} --help"


class Group(_Shown, TyperGroup):
    """A group of commands, listed in the order in which they were registered."""

    order: Sequence[str] = ()

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, in order.

        Args:
            ctx: The group's context.
        """
        return sorted(super().list_commands(ctx), key=self.order.index)


class App(typer.Typer):
    """A group of commands as `traces` has them; what typer would decide otherwise is decided here once."""

    def __init__(self, **settings: Any) -> None:
        self.order: list[str] = []
        group = type("Group", (Group,), {"order": self.order})
        super().__init__(cls=group, rich_markup_mode="markdown", pretty_exceptions_enable=False, **settings)

    def command(self, name: str, **settings: Any) -> Callable[[Any], Any]:  # type: ignore[override]
        """Return a decorator that adds a function as a command.

        Args:
            name: The command's name.
            **settings: As typer's own.
        """
        self.order.append(name)
        return super().command(name, cls=Command, **settings)

    def add_typer(self, app: typer.Typer, *, name: str, **settings: Any) -> None:  # type: ignore[override]
        """Add a group of commands.

        Args:
            app: The group.
            name: The group's name.
            **settings: As typer's own.
        """
        self.order.append(name)
        super().add_typer(app, name=name, **settings)


def refusal(error: Exception) -> str:
    """Return on one line what typer does not accept about a command line.

    Args:
        error: A `Refusal`. The line about an option or command that does not exist names the nearest one.
    """
    context: Any = getattr(error, "ctx", None)
    message = str(error.format_message()).replace("\n", " ").strip()  # type: ignore[attr-defined]
    if context is None:
        return message
    command, path, words = context.command, context.command_path, context.meta.get(_WORDS, [])
    kind, option = type(error).__name__, getattr(error, "option_name", None)
    if kind == "NoSuchOption" and option is not None:
        hint = _list_hint(context, words[words.index(option) :]) if option in words else None
        known = [name for p in command.get_params(context) if not p.hidden for name in (*p.opts, *p.secondary_opts)]
        return hint or _not_found("option", option, known, path)
    if unknown := re.match(r"No such command '(.*?)'", message):
        return _not_found("command", unknown[1], list(command.commands), path)
    parameter = getattr(error, "param", None)
    if kind == "BadParameter" and parameter is not None:
        value = _value_of(parameter, words)
        reason = str(error.message).removeprefix("Value error, ").partition(", unable to parse")[0]  # type: ignore[attr-defined]
        message = f"{parameter.opts[0]}{value}: {reason[:1].lower()}{reason[1:]}"
    return f"{message.rstrip('.')}. See {path} --help"


def _not_found(kind: str, name: str, known: Sequence[str], path: str) -> str:
    """Return that a command line's word is not known, with the nearest word that is, or where all of them are listed."""
    near = difflib.get_close_matches(name, [k for k in known if len(k) > 2], n=1, cutoff=0.6)
    return f"No {kind} '{name}'. {f'Did you mean {near[0]}?' if near else f'See {path} --help'}"


def _value_of(parameter: Any, words: list[str]) -> str:
    """Return the value that a command line gives an option, after a space; nothing if it is not found."""
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in parameter.opts:
            return f" {value if equals else ' '.join(words[place + 1 : place + 2])}"
    return ""


def _list_hint(ctx: Any, rest: list[str]) -> str | None:
    """Return how a list is written, if the words that no parameter takes follow the first item of one."""
    words = ctx.meta[_WORDS]
    lists = {name for p in ctx.command.params if "," in (p.metavar or "") for name in p.opts}
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in lists:
            after = [value] * bool(equals) + words[place + 1 :]
            count = next((n for n, w in enumerate(after) if n and re.match("-+[a-z]", w)), len(after))
            if rest[0] in after[1:count]:
                items = ",".join(item.strip(",") for item in after[: min(count, len(rest) + 1)])
                return f"{option} takes a list with commas: {option} {items}"
    return None


def _as_typed(words: list[str]) -> list[str]:
    """Return the words with the names of all files of this folder as the `*` that the shell made them from."""
    names = {p.name for p in Path().iterdir() if not p.name.startswith(".")}
    for start, word in enumerate(words):
        if word in names and set(words[start : start + len(names)]) == names:
            return [*words[:start], "*", *words[start + len(names) :]]
    return words
