"""Options about what is read: data sets and files, multiple-choice questions, prompts, and how a text becomes sequences.

A group opens what it names: `DataOptions.open`, `QuestionOptions.open` and `PromptOptions.open` give the source that a capture
reads. Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from capture.cli.terminal import needs_capture_extra
from capture.data.files import printable_value
from warehouse.cli.option_groups import Panel
from warehouse.errors import NotFoundError, UsageError
from warehouse.storage.objects import AnyPath

if TYPE_CHECKING:
    from capture.data.example import Source

SplitOption = Annotated[
    str, typer.Option("--split", help="The data set's split; `dev` is `validation`.", rich_help_panel=Panel.READ)
]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="A local copy of a known data set in its original format, or a folder with one file a split.",
        rich_help_panel=Panel.READ,
    ),
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="NAME",
        help="The configuration of a data set `owner/name`.",
        rich_help_panel=Panel.READ,
    ),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, help="Read only the first N examples.", rich_help_panel=Panel.READ)
]
SampleOption = Annotated[
    float | None,
    typer.Option(
        "--sample",
        metavar="SHARE",
        help="Read only this share of the examples, such as 0.01; --limit counts those. Which ones follows from their ids: the same in "
        "every run, and a larger share holds a smaller one.",
        show_default=False,
        rich_help_panel=Panel.READ,
    ),
]
MaxLenOption = Annotated[
    str,
    typer.Option(
        "--max-len",
        help="Cut texts to this many tokens, as the tokenizer does: its special tokens, a closing `[SEP]` or `</s>` among them, "
        "stay. `auto`: the model's window.",
        rich_help_panel=Panel.READ,
    ),
]
PrependBosOption = Annotated[
    str,
    typer.Option(
        "--prepend-bos",
        help="Whether a decoder's sequences begin with its BOS. `auto`: as its tokenizer does it (GPT-2, Qwen and SmolLM2 put none: "
        "the first token then has no prediction, and attention rests on it); `yes`: always, with the EOS where a model has no BOS; "
        "`no`: never. A chat template decides for itself.",
        rich_help_panel=Panel.READ,
    ),
]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which texts are read."""

    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="NAME|PATH",
            help="A data set that `traces data list` knows (`ud_ewt`, `go_emotions`, `csqa`, `wikitext2`, …), any of the hub's as "
            "`owner/name`, a folder with a data set (a file a split, or what `save_to_disk` wrote), a file of chats (.jsonl, .ndjson, "
            ".json or .parquet, with `messages` in each row, and `tools`), which the model's own chat template writes, or of prompts "
            "(`prompt` and `response`); or a log of an evaluation, or a folder of them: Inspect's (.eval, .json), "
            "lm-evaluation-harness' (samples_*.jsonl).",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="The data set's split; `dev` is `validation`, which is read where none is named.",
            rich_help_panel=Panel.READ,
        ),
    ] = None
    from_: FromOption = None
    config: ConfigOption = None
    headings: Annotated[
        bool,
        typer.Option(
            "--headings",
            help="Read the headings of WikiText too, which are left out otherwise.",
            rich_help_panel=Panel.READ,
        ),
    ] = False
    text: Annotated[
        str | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="Your own texts: one a line (.txt), or a column of .jsonl, .ndjson, .csv, .tsv or .parquet; `-` is standard "
            "input, one a line.",
            rich_help_panel=Panel.READ,
        ),
    ] = None
    text_column: Annotated[
        str | None,
        typer.Option(
            "--text-column",
            metavar="NAME",
            help="The column with the texts, in files that have columns and in data sets `owner/name`: `text` if none is named, of "
            "chats `messages`.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None
    label_column: Annotated[
        str | None,
        typer.Option(
            "--label-column",
            metavar="NAME",
            help="A column of the same data with labels of the texts (the table `labels`): a text, a number, true or false, or a "
            "list of them. An integer is its own `label_id`; others are numbered as they first appear.",
            rich_help_panel=Panel.READ,
        ),
    ] = None
    id_column: Annotated[
        str | None,
        typer.Option(
            "--id-column",
            metavar="NAME",
            help="A column of the file that tells its texts apart in every run: each row has another text or whole number there. "
            "Left out, the texts themselves do. Neither depends on the file's name.",
            rich_help_panel=Panel.READ,
        ),
    ] = None
    response_column: Annotated[
        str | None,
        typer.Option(
            "--response-column",
            metavar="NAME",
            help="A column with a response to each text, which is then a prompt: both are read as one sequence, and the response's "
            "tokens are `is_response`.",
            rich_help_panel=Panel.READ,
        ),
    ] = None
    score_column: Annotated[
        list[str] | None,
        typer.Option(
            "--score-column",
            metavar="NAME",
            help="A column with a score of the text, the chat or the response (the table `evaluations`): a number, true or false, a "
            "grade, or several as a list or an object; repeat it for several. Columns `target`, `answer`, `explanation`, `task` "
            "and `model` beside them are kept with the scores.",
            rich_help_panel=Panel.READ,
        ),
    ] = None
    limit: LimitOption = None
    sample: SampleOption = None

    def open(self, root: AnyPath) -> Source:
        """Open the data set or file.

        Args:
            root: The warehouse root, under which prepared data sets are kept.

        Returns:
            The examples, read again each time they are asked for.

        Raises:
            UsageError: A split of a file of texts is asked for.
        """
        if self.text is not None and self.split is not None:
            raise UsageError("--split goes with --data: a file of texts has no splits.")
        split = "validation" if self.split is None else self.split
        with needs_capture_extra():
            from capture.data.named_columns import NamedColumns
            from capture.data.registry import open_data

            columns = NamedColumns(
                text=self.text_column, label=self.label_column, id=self.id_column, response=self.response_column,
                scores=tuple(self.score_column or ()),
            )  # fmt: skip
            return open_data(
                self.data, text=self.text, split=split, origin=self.from_, config=self.config, headings=self.headings,
                columns=columns, root=root,
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class QuestionOptions:
    """Which multiple-choice questions are read."""

    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="NAME|PATH",
            help="A data set of multiple-choice questions: `csqa`; or with --choices-column any of the hub's as `owner/name`, a folder "
            "with a data set, or a file (.jsonl, .json or .parquet).",
            rich_help_panel=Panel.READ,
        ),
    ] = "csqa"
    split: SplitOption = "validation"
    from_: FromOption = None
    config: ConfigOption = None
    text_column: Annotated[
        str | None,
        typer.Option(
            "--text-column",
            metavar="NAME",
            help="The column with the questions, where --choices-column is given: `question` if none is named.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None
    choices_column: Annotated[
        str | None,
        typer.Option(
            "--choices-column",
            metavar="NAME",
            help='The column with the choices: a list of texts, which get the letters A, B, …, or `{"text": […], "label": […]}`.',
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None
    answer_column: Annotated[
        str | None,
        typer.Option(
            "--answer-column",
            metavar="NAME",
            help="The column with the right choice: its letter, its text, or its place from 0. Left out, accuracy is unknown.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None
    id_column: Annotated[
        str | None,
        typer.Option(
            "--id-column",
            metavar="NAME",
            help="The column that tells the questions apart, where --choices-column is given; left out, their texts do.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None
    limit: LimitOption = None
    sample: SampleOption = None

    def open(self, root: AnyPath) -> Source:
        """Open the questions.

        Args:
            root: The warehouse root, under which prepared data sets are kept.

        Returns:
            The questions, read again each time they are asked for.

        Raises:
            NotFoundError: No data set has that name, and there is no column with choices.
            UsageError: Columns are named of a data set whose columns are known.
        """
        from capture.data import csqa
        from capture.data.named_columns import NamedColumns
        from capture.data.registry import DATASETS, open_data

        if self.choices_column is not None:
            columns = NamedColumns(
                text=self.text_column or "question",
                id=self.id_column,
                choices=self.choices_column,
                answer=self.answer_column,
            )
            with needs_capture_extra():
                return open_data(
                    self.data, split=self.split, origin=self.from_, config=self.config, columns=columns, root=root
                )
        named = {
            "--text-column": self.text_column, "--answer-column": self.answer_column, "--id-column": self.id_column,
            "--config": self.config,
        }  # fmt: skip
        if option := next((name for name, value in named.items() if value is not None), None):
            raise UsageError(f"{option} goes with --choices-column, which names the column with the choices.")
        if self.data not in DATASETS:
            raise NotFoundError(
                "data set of multiple-choice questions",
                printable_value(self.data),
                [csqa.DATASET.name],
                "Captures read questions of any other data set too, if told which of its columns has the choices.",
            )
        return DataOptions(data=self.data, split=self.split, from_=self.from_).open(root)


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """Which prompts a model answers."""

    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", "-p", metavar="TEXT", help="A prompt; repeat it for several.", rich_help_panel=Panel.READ
        ),
    ] = None
    prompt_set: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt-set",
            metavar="NAME",
            help="A set of prompts: `single_trait`, `multi_trait`, `dynamic`, `adversarial`, `baseline`, `real_world`, a .json file, "
            "or a folder of them; repeat it for several.",
            rich_help_panel=Panel.READ,
        ),
    ] = None
    all_prompt_sets: Annotated[
        bool, typer.Option("--all-prompt-sets", help="All sets that come with traces.", rich_help_panel=Panel.READ)
    ] = False
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="CHATS",
            help="A file of chats (.jsonl, .ndjson, .json or .parquet, with `messages` in each row, and `tools`): each is gone on "
            "with, so that it ends before an answer.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None
    limit: LimitOption = None
    sample: SampleOption = None

    def open(self, root: AnyPath) -> Source:
        """Open the prompts.

        Args:
            root: The warehouse root, which prompts don't need.

        Returns:
            The prompts, one an example.

        Raises:
            UsageError: Not one of prompts, sets of them and chats is given.
        """
        from capture.data.files import check_not_empty
        from capture.data.prompt_sets import open_prompt_sets, open_prompts, shipped_sets
        from capture.data.text import open_chats

        texts, names = self.prompt or [], [*(self.prompt_set or []), *(shipped_sets() if self.all_prompt_sets else [])]
        check_not_empty(data=self.data)
        if bool(texts) + bool(names) + bool(self.data) != 1:
            raise UsageError(
                "Say what the model is to answer: --prompt TEXT, or --prompt-set NAME, or --all-prompt-sets, or --data CHATS."
            )
        if self.data is not None:
            return open_chats(self.data)
        return open_prompts(texts) if texts else open_prompt_sets(names)


@dataclass(frozen=True, kw_only=True)
class SequenceOptions:
    """How a text becomes sequences of tokens."""

    target_column: Annotated[
        str | None,
        typer.Option(
            "--target-column",
            metavar="NAME",
            help="For encoder-decoders: the column of the text that the decoder is given.",
            rich_help_panel=Panel.READ,
        ),
    ] = None
    max_len: MaxLenOption = "auto"
    chunk: Annotated[
        bool,
        typer.Option(
            "--chunk",
            help="Continue a long text in the next `seq`. Each begins and ends with the special tokens that the tokenizer gives a "
            "text; without a BOS among them, the first token of each has no prediction.",
            rich_help_panel=Panel.READ,
        ),
    ] = False
    stride: Annotated[
        int | None,
        typer.Option(
            "--stride",
            min=1,
            metavar="S",
            help="As --chunk, in windows that overlap: each `seq` begins S tokens after the one before it, and reads what that one "
            "had as context. A token is predicted once, so that the loss is that of the usual sliding window; where it is read "
            "again it is `is_context`.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None
    prepend_bos: PrependBosOption = "auto"
