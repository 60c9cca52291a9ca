"""The options that several commands of `traces` share, as groups that a command takes as one object each.

Here are the groups about the model, what is kept, how responses are drawn, and what is written; `data_options` has those about
what is read. A group checks what can be checked before torch is imported. `warehouse.cli.option_groups.with_groups` puts a
group into a command's signature. Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from capture.api.capture_options import shared_options
from capture.cli.terminal import needs_capture_extra, note
from capture.cli.values import parse_max_len
from capture.data.files import check_not_empty, printable_value
from capture.workers.assignment import assigned_part
from warehouse.cli.option_groups import Panel
from warehouse.cli.options import WarehouseOption, dry_run_option, run_option
from warehouse.errors import UsageError
from warehouse.storage.objects import AnyPath

if TYPE_CHECKING:
    from capture.model.loading import HeadKind, Loaded
    from warehouse.storage.manifest import ModelInfo

MODEL_HELP = "`smollm2` or `minilm` (packaged), a hub name, a folder, or a .gguf file."
SITES = "hidden,resid,qkv,attn,q,k,v,attn_out,mlp_out,mlp_act,heads"

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help=MODEL_HELP, show_default=False, rich_help_panel=Panel.READ)
]
RunModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Where the run's model lies now, if not where it was; it must have the same weights.",
        rich_help_panel=Panel.READ,
    ),
]
TopKOption = Annotated[
    int,
    typer.Option(
        "--top-k",
        min=1,
        help="How many of the most probable tokens to keep at each position.",
        rich_help_panel=Panel.KEPT,
    ),
]
DryRunOption = Annotated[
    bool,
    dry_run_option("Say what would be captured and how large it gets; write nothing."),
]
RunOption = Annotated[str | None, run_option("made from model and data")]
SkipExistingOption = Annotated[
    bool,
    typer.Option(
        "--skip-existing",
        help="If the run exists already, say so and do nothing.",
        rich_help_panel=Panel.WRITTEN,
    ),
]


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a model is loaded, and where it runs."""

    revision: Annotated[
        str | None,
        typer.Option("--revision", help="A branch, tag or commit of a hub model.", rich_help_panel=Panel.READ),
    ] = None
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Run Python code that comes with the model, with your account's rights. Only for a publisher you trust.",
            rich_help_panel=Panel.RUNNING,
        ),
    ] = False
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            help="Compute in `float32`, `float16` or `bfloat16`; `auto`: the weights' own.",
            rich_help_panel=Panel.RUNNING,
        ),
    ] = "auto"
    device: Annotated[
        str,
        typer.Option("--device", help="`auto`, `cpu`, `cuda`, `cuda:1` or `mps`.", rich_help_panel=Panel.RUNNING),
    ] = "auto"
    device_map: Annotated[
        str | None,
        typer.Option(
            "--device-map",
            metavar="auto|JSON",
            help="`auto` spreads a large model over all devices, as accelerate does; or a device for each module, as JSON.",
            rich_help_panel=Panel.RUNNING,
        ),
    ] = None

    def load(self, model: str, head: HeadKind | None, *, tokenizer: bool = True, seed: int = 0) -> Loaded:
        """Load a model.

        Args:
            model: A packaged model's short name, a hub name, a folder or a .gguf file.
            head: The head to load it with; None: the one its own configuration names.
            tokenizer: Whether it must come with a tokenizer.
            seed: Seed for the weights of a multiple-choice head that the checkpoint lacks.

        Returns:
            The model in eval mode, with its tokenizer.
        """
        with needs_capture_extra():
            from capture.model import loading

        check_not_empty(revision=self.revision, device_map=self.device_map)
        note(f"loading {printable_value(model)}")
        return loading.load(
            model,
            head=head,
            revision=self.revision,
            device=self.device,
            device_map=self.device_map,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
            tokenizer=tokenizer,
            seed=seed,
            note=note,
        )

    def load_of_run(self, folder: AnyPath, place: str | None) -> Loaded:
        """Load the model that a run was captured with, in the run's dtype, with its language model's head.

        Args:
            folder: The run's folder.
            place: Where the model lies now, if not where it was.

        Returns:
            The model; whether it has the run's weights is not checked here.

        Raises:
            UsageError: It is not where it was, or the device is not there.
        """
        with needs_capture_extra():
            from capture.api.derived import load_captured_model
            from capture.model.loading import find_device
        from warehouse.storage.manifest import Manifest

        find_device(self.device)

        def load(info: ModelInfo) -> Loaded:
            revision = None if place else info.revision
            return replace(self, dtype=info.dtype, revision=revision).load(place or info.name, "lm")

        return load(Manifest.read(folder).model) if place else load_captured_model(folder, load, "--model PLACE")


@dataclass(frozen=True, kw_only=True)
class CaptureOptions:
    """Which tensors are kept, how they are stored, and what of them becomes searchable."""

    capture: Annotated[
        str,
        typer.Option(
            "--capture",
            metavar="A,B,…",
            help=f"What to keep: any of `{SITES}`, or `none`. See `traces model check`.",
            rich_help_panel=Panel.KEPT,
        ),
    ] = "none"
    attn: Annotated[
        str,
        typer.Option(
            "--attn",
            help="`auto`: derive attention from q and k where that is exact, else store it; `stored`: always store it.",
            rich_help_panel=Panel.KEPT,
        ),
    ] = "auto"
    store_dtype: Annotated[
        str,
        typer.Option(
            "--store-dtype",
            help="Keep tensors in `float16`, `bfloat16`, `float32` or `int8` (all but q, k and attention; see docs/accuracy.md); "
            "`auto`: as computed, but float16 for float32.",
            rich_help_panel=Panel.KEPT,
        ),
    ] = "auto"
    shard_mb: Annotated[
        int,
        typer.Option(
            "--shard-mb",
            min=1,
            help="Size of a tensor file in MB. A capture that is killed loses at most the file it was writing.",
            rich_help_panel=Panel.KEPT,
        ),
    ] = 256
    batch_tokens: Annotated[
        int,
        typer.Option(
            "--batch-tokens",
            min=1,
            help="Tokens in a forward pass, padding included.",
            rich_help_panel=Panel.RUNNING,
        ),
    ] = 1024
    index: Annotated[
        list[str] | None,
        typer.Option(
            "--index",
            metavar="SITE@LAYERS",
            help="What to make searchable by nearness: `resid.post_mlp@mid`, `@8,16`, `@all`, `q@5`, …, or `none`; repeat it for "
            "several. By default the middle of the residual stream, if that is kept.",
            show_default=False,
            rich_help_panel=Panel.WRITTEN,
        ),
    ] = None

    keep_every: Annotated[
        int,
        typer.Option(
            "--keep-every",
            metavar="N",
            min=1,
            help="Keep tensors of one example in N, and rows of all. Which ones follows from their ids: the same in every run, and for "
            "every model.",
            rich_help_panel=Panel.KEPT,
        ),
    ] = 1

    def checked(
        self, limit: int | None = None, max_len: str = "auto", part: str = "", sample: float | None = None
    ) -> dict[str, Any]:
        """Check what all kinds of capture share, before anything heavy is imported.

        Args:
            limit: Read only this many examples; None: all.
            max_len: Length in tokens that texts are cut to, or `auto`.
            part: The part `i/n` of the run; empty: all of it.
            sample: The share of the examples that is read; None: all.

        Returns:
            Arguments for the `Options` of any job.
        """
        return shared_options(
            keep=self.capture,
            attn=self.attn,
            store_dtype=self.store_dtype,
            index=self.index,
            limit=limit,
            max_len=parse_max_len(max_len),
            batch_tokens=self.batch_tokens,
            shard_mb=self.shard_mb,
            part=part,
            sample=sample,
            keep_every=self.keep_every,
        )


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How tokens are drawn when a model answers."""

    max_new_tokens: Annotated[
        int,
        typer.Option(
            "--max-new-tokens",
            min=1,
            help="The longest response in tokens, its end token included.",
            rich_help_panel=Panel.RESPONSES,
        ),
    ] = 50
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature",
            min=0,
            help="How freely tokens are drawn; 0: always the most probable one.",
            rich_help_panel=Panel.RESPONSES,
        ),
    ] = 0.7
    top_p: Annotated[
        float,
        typer.Option(
            "--top-p",
            help="Draw among the fewest tokens whose probabilities sum to this.",
            rich_help_panel=Panel.RESPONSES,
        ),
    ] = 1.0
    sample_top_k: Annotated[
        int,
        typer.Option(
            "--sample-top-k",
            min=0,
            help="Draw among this many of the most probable tokens; 0: among all.",
            rich_help_panel=Panel.RESPONSES,
        ),
    ] = 0
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed for drawing tokens.", rich_help_panel=Panel.RESPONSES)
    ] = 0


@dataclass(frozen=True, kw_only=True)
class PartOptions:
    """Which part of a run this process does."""

    part: Annotated[
        str,
        typer.Option(
            "--part",
            metavar="I/N",
            help="Do only every N-th example, from the I-th on, as the run NAME.shard-I-of-N. Other processes or machines do the "
            "other parts, and `traces runs merge NAME` makes one run of them.",
            rich_help_panel=Panel.GENERAL,
        ),
    ] = ""
    shard: Annotated[str, typer.Option("--shard", metavar="I/N", hidden=True)] = ""
    """What `--part` was called before."""
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            metavar="N",
            min=1,
            max=9999,
            help="Have N processes of this machine make the run, each a part of it: one a GPU, or one for some of the cores.",
            rich_help_panel=Panel.RUNNING,
        ),
    ] = 1
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Have the workers run on a Ray cluster: its address, `auto`, or `local`. All nodes share the warehouse's folder.",
            show_default=False,
            rich_help_panel=Panel.RUNNING,
        ),
    ] = None

    @property
    def chosen(self) -> str:
        """The part `i/n`; empty: all of the run.

        Raises:
            UsageError: A part is to be done by several processes.
        """
        check_not_empty(ray=self.ray)
        if (self.part or self.shard) and (self.workers > 1 or self.ray is not None):
            raise UsageError("--part and --workers don't go together: --workers makes all parts, and merges them.")
        return assigned_part() or self.part or self.shard

    @property
    def divided(self) -> bool:
        """Whether other processes do the work, and this one is their driver."""
        return (self.workers > 1 or self.ray is not None) and not assigned_part()


@dataclass(frozen=True, kw_only=True)
class RunOptions(PartOptions):
    """Where a capture is written."""

    run: RunOption = None
    dry_run: DryRunOption = False
    warehouse: WarehouseOption = None
