"""`traces capture generate`: a model answers prompts, and what happens inside while it does is kept."""

from __future__ import annotations

from typing import Annotated

import typer

from capture.cli.arguments import Model, Prompts, capture_options
from capture.cli.capture import run_capture
from capture.cli.options import (
    AttnOption,
    BatchTokensOption,
    CaptureOption,
    DeviceMapOption,
    DeviceOption,
    DryRunOption,
    DtypeOption,
    IndexOption,
    LimitOption,
    MaxNewTokensOption,
    ModelOption,
    PrependBosOption,
    RevisionOption,
    RunOption,
    SampleTopKOption,
    SeedOption,
    ShardOfOption,
    ShardOption,
    SkipExistingOption,
    StoreDtypeOption,
    TemperatureOption,
    TopPOption,
    TrustOption,
)
from capture.cli.terminal import needs_capture_extra
from warehouse.cli.options import WarehouseOption


def generate(
    model: ModelOption,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", metavar="TEXT", help="A prompt; may be given several times.")
    ] = None,
    prompt_set: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt-set",
            metavar="NAME",
            help="A set of prompts: `single_trait`, `several_traits`, `changing`, `adversarial`, `baseline`, `real_world`, or a "
            ".json file, or a folder of them; may be given several times.",
        ),
    ] = None,
    all_prompt_sets: Annotated[bool, typer.Option("--all-prompt-sets", help="All sets that come with traces.")] = False,
    max_new_tokens: MaxNewTokensOption = 50,
    temperature: TemperatureOption = 0.7,
    top_p: TopPOption = 1.0,
    sample_top_k: SampleTopKOption = 0,
    seed: SeedOption = 0,
    samples: Annotated[int, typer.Option(min=1, help="Responses to each prompt: `seq` 0, 1, …")] = 1,
    prepend_bos: PrependBosOption = "auto",
    capture: CaptureOption = "none",
    layer_internals: Annotated[
        str,
        typer.Option(
            "--layer-internals", metavar="LAYERS", help="Keep every site of these layers too: `5`, `5,8`, `all`."
        ),
    ] = "",
    attn: AttnOption = "auto",
    index: IndexOption = None,
    limit: LimitOption = None,
    run: RunOption = None,
    skip_existing: SkipExistingOption = False,
    batch_tokens: BatchTokensOption = 2048,
    top_k: Annotated[int, typer.Option(min=1, help="Most probable tokens to keep for each position.")] = 5,
    device: DeviceOption = "auto",
    device_map: DeviceMapOption = None,
    dtype: DtypeOption = "auto",
    store_dtype: StoreDtypeOption = "auto",
    shard_mb: ShardOption = 256,
    shard: ShardOfOption = "",
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    dry_run: DryRunOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """A model answers prompts; then prompt and response are read once, and that is recorded, token by token.

    The model's chat template is used where it has one. The same seed gives the same responses, in whatever batches.
    The same command again goes on with a capture that was interrupted.

    Examples: `traces capture generate --model smollm2 --prompt "How do I make tea?" --capture resid`,
    `traces capture generate --model smollm2 --prompt-set single_trait --max-new-tokens 50 --temperature 0.7 --seed 0 --capture resid,attn_out`
    """
    shared = capture_options(capture, attn, index, limit, "auto", batch_tokens, store_dtype, shard_mb, shard)
    asked = Model(model, "lm", device, device_map, dtype, revision, trust_remote_code)
    with needs_capture_extra():
        from capture.data.prompt_sets import shipped_sets
        from capture.jobs import generate as kind
    options = kind.Options(
        **shared,
        layer_internals=layer_internals,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        sample_top_k=sample_top_k,
        seed=seed,
        samples=samples,
        prepend_bos=prepend_bos,
        top_k=top_k,
    )
    options.sampling.check()
    sets = [*(prompt_set or []), *(shipped_sets() if all_prompt_sets else [])]
    run_capture(kind, options, asked, Prompts(prompt or [], sets), run, dry_run, warehouse, skip_existing)
