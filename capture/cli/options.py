"""The options that several commands of `traces` share. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated

import typer

MODEL_HELP = "`smollm2` or `minilm` (packaged), a hub name, a folder, or a .gguf file."
ModelOption = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP, show_default=False)]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="A data set that `traces data list` knows (`ud_ewt`, `go_emotions`, `csqa`, `wikitext2`, …), or any of the "
        "hub's as `owner/name`.",
        show_default=False,
    ),
]
QuestionsOption = Annotated[str, typer.Option("--data", help="A data set of multiple-choice questions: `csqa`.")]
SplitOption = Annotated[str, typer.Option("--split", help="The data set's split; `dev` is `validation`.")]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="A local copy of a known data set in its original format, or a folder with one file a split.",
    ),
]
ConfigOption = Annotated[
    str | None, typer.Option("--config", metavar="NAME", help="The configuration of a data set `owner/name`.")
]
HeadingsOption = Annotated[
    bool, typer.Option("--headings", help="Read the headings of WikiText too, which are left out otherwise.")
]
TextOption = Annotated[
    str | None,
    typer.Option(
        "--text",
        metavar="FILE",
        help="Your own texts: one a line (.txt), or a column of .jsonl, .ndjson, .csv, .tsv or .parquet; `-` is standard "
        "input, one a line.",
    ),
]
TextColumnOption = Annotated[
    str,
    typer.Option("--text-column", help="The text's column in files that have columns and data sets `owner/name`."),
]
LabelColumnOption = Annotated[
    str | None,
    typer.Option(
        "--label-column",
        metavar="NAME",
        help="A column of the same whose values are labels of the texts (the table `labels`): a text, a number, true or false, or a "
        "list of them. An integer is its own `label_id`; others are numbered as they first appear.",
    ),
]
TargetColumnOption = Annotated[
    str | None,
    typer.Option("--target-column", help="For encoder-decoders: the column of the text that the decoder is given."),
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Read only the first N examples.")]
CaptureOption = Annotated[
    str,
    typer.Option(
        "--capture",
        help="What to keep: any of `hidden,resid,qkv,attn,q,k,v,attn_out,mlp_out,mlp_act,heads`, or `none`. See "
        "`traces model check`.",
    ),
]
AttnOption = Annotated[
    str,
    typer.Option(
        "--attn", help="`auto`: derive attention from q and k where that is exact, else store it; `stored`: store it."
    ),
]
IndexOption = Annotated[
    list[str] | None,
    typer.Option(
        "--index",
        metavar="SITE@LAYERS",
        help="What to make searchable by nearness: `resid.post_mlp@mid`, `@8,16`, `@all`, `q@5`, …, or `none`. The middle of the "
        "residual stream if that is kept and nothing is said.",
        show_default=False,
    ),
]
RunOption = Annotated[str | None, typer.Option("--run", help="The run's name; made from model and data if left out.")]
MaxLenOption = Annotated[
    str,
    typer.Option(
        "--max-len",
        help="Cut texts to so many tokens, as the tokenizer does: its special tokens, a closing `[SEP]` or `</s>` among them, stay. "
        "`auto`: at the model's window.",
    ),
]
ChunkOption = Annotated[
    bool,
    typer.Option(
        "--chunk",
        help="Go on with the rest of a long text as the next `seq`. Each begins and ends with the special tokens that the tokenizer "
        "gives a text; without a BOS among them, the first token of each has no prediction.",
    ),
]
StrideOption = Annotated[
    int | None,
    typer.Option(
        "--stride",
        min=1,
        metavar="S",
        help="As --chunk, in windows that overlap: each `seq` begins S tokens of the text after the one before it, and reads what "
        "that one had as context. Tokens are predicted once, so that the loss is that of the usual sliding window; read again they "
        "are `is_context`.",
        show_default=False,
    ),
]
PrependBosOption = Annotated[
    str,
    typer.Option(
        "--prepend-bos",
        help="Whether a decoder's sequences begin with its BOS. `auto`: as its tokenizer has it (GPT-2, Qwen and SmolLM2 have none "
        "there: the first token then has no prediction, and attention rests on it); `yes`: in any case, the EOS where a model "
        "has no BOS; `no`: never. With a chat template, that decides.",
    ),
]
BatchTokensOption = Annotated[
    int, typer.Option("--batch-tokens", min=1, help="Tokens in a forward pass, padding counted.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="`auto`, `cpu`, `cuda`, `cuda:1` or `mps`.")]
DeviceMapOption = Annotated[
    str | None,
    typer.Option("--device-map", help="`auto` spreads a large model over all devices, as accelerate does."),
]
DtypeOption = Annotated[
    str, typer.Option("--dtype", help="Compute in `float32`, `float16` or `bfloat16`; `auto`: as the weights are.")
]
StoreDtypeOption = Annotated[
    str,
    typer.Option(
        "--store-dtype",
        help="Keep tensors in `float16`, `bfloat16` or `float32`; `auto`: as computed, but float16 for float32.",
    ),
]
ShardOption = Annotated[
    int, typer.Option("--shard-mb", min=1, help="Size of a tensor file, MB: how much a kill can cost.")
]
ShardOfOption = Annotated[
    str,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Do only every N-th example, from the I-th on, as the run NAME.shard-I-of-N. Several processes or machines "
        "do the others, and `traces runs merge NAME` makes one run of all.",
    ),
]
RevisionOption = Annotated[str | None, typer.Option("--revision", help="A branch, tag or commit of a hub model.")]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run Python code that comes with the model, with your account's rights. Only for a publisher you trust.",
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be captured and how large it gets; write nothing.")
]
SkipExistingOption = Annotated[
    bool, typer.Option("--skip-existing", help="Where the run is there already, leave it and say so.")
]
MaxNewTokensOption = Annotated[
    int, typer.Option("--max-new-tokens", min=1, help="Most tokens of a response, its end token counted.")
]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", min=0, help="How freely tokens are drawn; 0: the most probable one.")
]
TopPOption = Annotated[
    float, typer.Option("--top-p", help="Draw among the fewest tokens whose probabilities sum to this.")
]
SampleTopKOption = Annotated[
    int, typer.Option("--sample-top-k", min=0, help="Draw among so many of the most probable tokens; 0: among all.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of the random numbers that tokens are drawn by.")]
