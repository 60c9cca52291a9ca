"""`traces capture generate`: a model answers prompts, and what happens inside while it does is kept."""

from __future__ import annotations

from typing import Annotated

import typer

from capture.cli.capture import run_capture
from capture.cli.data_options import PrependBosOption, PromptOptions
from capture.cli.options import (
    CaptureOptions,
    LoadOptions,
    ModelOption,
    RunOptions,
    SamplingOptions,
    SkipExistingOption,
    TopKOption,
)
from capture.cli.terminal import needs_capture_extra, note, stopped_by_signals
from warehouse.cli.option_groups import Panel, with_groups


@with_groups(defaults={"batch_tokens": 2048, "capture": "resid"})
def generate(
    model: ModelOption,
    loading: LoadOptions,
    prompts: PromptOptions,
    sampling: SamplingOptions,
    capture: CaptureOptions,
    target: RunOptions,
    samples: Annotated[
        int,
        typer.Option(min=1, help="Responses to each prompt: `seq` 0, 1, …", rich_help_panel=Panel.RESPONSES),
    ] = 1,
    prepend_bos: PrependBosOption = "auto",
    layer_internals: Annotated[
        str,
        typer.Option(
            metavar="5,8,…|all",
            help="Keep every site of these layers too: `5`, `5,8`, `all`.",
            rich_help_panel=Panel.KEPT,
        ),
    ] = "",
    top_k: TopKOption = 5,
    project: Annotated[
        bool,
        typer.Option(
            "--project/--no-project",
            help="Project the run on all traits that have vectors of this model; a part of a run is not projected.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = True,
    skip_existing: SkipExistingOption = False,
) -> None:
    """Have a model answer prompts; then read prompt and response once, and record that, token by token.

    The residual stream is kept unless `--capture` says otherwise. Where the warehouse has vectors of traits of this model, the run
    is projected on them too. The model's chat template is used where it has one. The same seed gives the same responses, in whatever batches. The same
    command again continues a capture that was interrupted.

    Examples:
        traces capture generate --model smollm2 --prompt "How do I make tea?" --run tea
        traces capture generate --model smollm2 --prompt-set single_trait --max-new-tokens 50 --temperature 0.7 --seed 0 --capture resid,attn_out
    """
    shared = capture.checked(prompts.limit, part=target.chosen)
    with needs_capture_extra():
        from capture.jobs import generate as job
    options = job.Options(
        **shared,
        layer_internals=layer_internals,
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        sample_top_k=sampling.sample_top_k,
        seed=sampling.seed,
        samples=samples,
        prepend_bos=prepend_bos,
        top_k=top_k,
    )
    options.sampling.check()
    manifest = run_capture(
        job, options, prompts, target, model, loading, lambda: loading.load(model, "lm"), skip_existing
    )
    if manifest is None or not project or target.chosen:
        return
    from capture.api.derived import project_on_known_traits
    from capture.cli.trait_project import show_projection
    from warehouse.storage import paths

    with stopped_by_signals():
        projection = project_on_known_traits(paths.find_root(target.warehouse), manifest.run_id, note, say=note)
    if projection is not None:
        show_projection(projection)
