"""The columns that a user names of their data, before it is known what kind of data that is."""

from __future__ import annotations

from dataclasses import dataclass

from capture.data.columns import Columns
from capture.data.files import check_not_empty, printable_value
from warehouse.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class NamedColumns:
    """Columns that the user names; None: none, or as data of its kind calls it."""

    text: str | None = None
    """The column that is the text, or of chats the messages."""
    label: str | None = None
    """The column that holds labels."""
    id: str | None = None
    """The column that tells the texts apart."""
    response: str | None = None
    """The column with a response to each text."""
    scores: tuple[str, ...] = ()
    """Columns with scores of the texts."""
    choices: str | None = None
    """The column with the choices, where the texts are questions."""
    answer: str | None = None
    """The column that says which of them is right."""

    @property
    def options(self) -> list[tuple[str, str]]:
        """The options of the command line that name them, and their names."""
        one_each = {
            "--label-column": self.label, "--id-column": self.id, "--response-column": self.response,
            "--choices-column": self.choices, "--answer-column": self.answer, "--text-column": self.text,
        }  # fmt: skip
        named = [(option, column) for option, column in one_each.items() if column is not None]
        return named + [("--score-column", column) for column in self.scores]

    def check_not_empty(self) -> None:
        """Raise UsageError where a name is empty."""
        for option, column in self.options:
            check_not_empty(**{option.removeprefix("--").replace("-", "_"): column})

    def resolve(self, text: str) -> Columns:
        """Return the columns of a table.

        Args:
            text: What the text's column is called where the user does not name it.

        Returns:
            The columns.

        Raises:
            UsageError: Two options name the same column.
        """
        texts = self.text or text
        taken = {texts: "the text's column"}
        for option, column in self.options:
            if option == "--text-column":
                continue
            if column in taken:
                raise UsageError(f"{option} {printable_value(column)} is {taken[column]}: name another.")
            taken[column] = "the labels' column" if option == "--label-column" else f"what {option} names already"
        return Columns(
            texts, self.label, id=self.id, response=self.response, scores=self.scores, choices=self.choices, answer=self.answer
        )  # fmt: skip
