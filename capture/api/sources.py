"""What can be read, opened by name for the functions of this package; lists of texts need no opening."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from capture.api.arguments import in_python_terms
from capture.data.example import Source
from warehouse.errors import UsageError
from warehouse.storage.objects import AnyPath


@in_python_terms
def open_file(
    path: str | Path,
    *,
    text_column: str = "text",
    label_column: str | None = None,
    id_column: str | None = None,
    response_column: str | None = None,
    score_columns: Sequence[str] = (),
) -> Source:
    """Open a file of your own texts.

    Example:
        data = capture.open_file("reviews.csv", text_column="review", label_column="stars")

    Args:
        path: A .txt file, one text a line, or a .jsonl, .ndjson, .csv, .tsv or .parquet file.
        text_column: The column with the texts, in a file that has columns.
        label_column: A column with labels of the texts: a text, a number, true or false, or a list of them.
        id_column: A column that tells the texts apart; None: the texts themselves do.
        response_column: A column with a response to each text; both are read as one sequence.
        score_columns: Columns with scores of the texts, or of the responses.

    Returns:
        The source, which is read anew by each capture.

    Raises:
        UsageError: The file cannot be read, has no such column, or holds no text.
        NotFoundError: There is no such file.
    """
    from capture.data.named_columns import NamedColumns
    from capture.data.registry import open_data

    columns = NamedColumns(
        text=text_column, label=label_column, id=id_column, response=response_column, scores=tuple(score_columns)
    )
    return open_data(text=str(path), columns=columns)


@in_python_terms
def open_chats(
    chats: str | Path | Iterable[Any],
    *,
    tools: Iterable[Any] | None = None,
    column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
) -> Source:
    """Open chats, which the model's own chat template writes.

    Example:
        data = capture.open_chats([[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]])

    Args:
        chats: A .jsonl, .ndjson, .json or .parquet file with a list of messages in each row; or a list of chats, each a list of
            messages with a role and a content.
        tools: What the model may call, as JSON schemas of functions, the same for all chats of a list. A file has a column `tools`.
        column: The file's column with the messages; None: `messages`, or `conversations`.
        label_column: A column of the file with labels of the chats.
        id_column: A column of the file that tells the chats apart; None: the chats themselves do.

    Returns:
        The source, which is read anew by each capture.

    Raises:
        UsageError: The file cannot be read, has no such column, or something in it is no chat of texts.
        NotFoundError: There is no such file.
    """
    from capture.data import memory
    from capture.data.named_columns import NamedColumns
    from capture.data.registry import open_data

    if not isinstance(chats, str | Path):
        return memory.open_chats(chats, tools)
    if tools is not None:
        raise UsageError("tools goes with a list of chats: a file has them in its column `tools`.")
    return open_data(str(chats), columns=NamedColumns(text=column, label=label_column, id=id_column))


@in_python_terms
def open_dataset(
    name: str,
    *,
    split: str = "validation",
    from_: str | Path | None = None,
    config: str | None = None,
    headings: bool = False,
    text_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    choices_column: str | None = None,
    answer_column: str | None = None,
    root: str | AnyPath | None = None,
) -> Source:
    """Open a data set, or the logs of an evaluation.

    Example:
        data = capture.open_dataset("ud_ewt", split="dev")

    Args:
        name: A data set that `traces data list` knows, any of the hub's as `owner/name`, a folder with a data set, or a log of an
            evaluation (Inspect's, lm-evaluation-harness') or a folder of them.
        split: Its split.
        from_: A local copy of a known data set in its original format.
        config: The configuration of a data set `owner/name`.
        headings: Read the headings of WikiText too.
        text_column: The column with the texts, in a data set `owner/name` or a folder; None: `text`.
        label_column: A column with labels there.
        id_column: A column there that tells the texts apart; None: the texts themselves do.
        choices_column: A column there with the choices, where the texts are questions: a list of texts, or `{"text": […], "label": […]}`.
        answer_column: A column there with the right choice: its letter, its text, or its place from 0.
        root: The warehouse's folder, under which prepared data sets are kept; None: `$TRACES_HOME`, else `./runs`.

    Returns:
        The source, which is read anew by each capture.

    Raises:
        UsageError: The data cannot be read, or arguments don't go together.
        NotFoundError: There is no such data set.
    """
    from capture.data.named_columns import NamedColumns
    from capture.data.registry import open_data
    from warehouse.storage import paths

    columns = NamedColumns(
        text=text_column, label=label_column, id=id_column, choices=choices_column, answer=answer_column
    )
    origin = None if from_ is None else str(from_)
    return open_data(
        name, split=split, origin=origin, config=config, headings=headings, columns=columns, root=paths.find_root(root)
    )


@in_python_terms
def open_prompt_sets(*names: str | Path) -> Source:
    """Open sets of prompts for `generate`.

    Example:
        run = capture.generate(model, capture.open_prompt_sets("single_trait"))

    Args:
        *names: Sets that come with traces (`single_trait`, `multi_trait`, …), .json files, or folders of them.

    Returns:
        The source, in the order of the names.

    Raises:
        UsageError: Two sets have the same name, or a set is malformed.
        NotFoundError: There is no such set.
    """
    from capture.data.prompt_sets import open_prompt_sets as open_sets

    return open_sets([str(name) for name in names])
