"""What a capture says about itself: its identity, its name if it is given none, and its manifest.

In go a `Job` and, at the end, what was counted and written; `run_job` calls all three functions. Two captures with the same
identity are the same one: the second goes on where the first stopped.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capture.data.example import Source
from capture.jobs.versions import computing_versions, versions
from capture.model import loading
from capture.model.gguf import is_gguf
from capture.sequences import partition
from capture.sequences.chat import template_date
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage import paths
from warehouse.storage.blobs import TensorSpec
from warehouse.storage.losses import perplexity, predicted_bytes
from warehouse.storage.manifest import Counts, DataInfo, Manifest, SiteInfo, StagedRun
from warehouse.storage.model_info import ModelInfo
from warehouse.storage.run_identity import RunIdentity

if TYPE_CHECKING:
    from capture.jobs.job import Job, Progress


def default_name(model: str, source: Source, identity: RunIdentity) -> str:
    """Return the name of a run that is given none, such as `smollm2-wikitext2-validation-a1b2`.

    Args:
        model: The model's name or path.
        source: The data.
        identity: What makes the run what it is.

    Returns:
        The same name for the same identity, so that running a command again goes on with its run.
    """
    options, model_facts = identity.facts["options"], identity.facts["model"]
    shard = options.get("shard", "")
    if shard:  # named after what all parts have in common
        shared_model = model_facts | {"device": model_facts["device"].partition(":")[0]}
        facts = {**identity.facts, "options": options | {"shard": ""}, "model": shared_model}
        identity = replace(identity, facts=facts)
    stem = Path(model).name
    words = [
        stem[: -len(".gguf")] if is_gguf(stem) else stem,
        source.dataset,
        *([source.split] if source.split else []),
        identity.digest(4),
    ]
    name = "-".join("".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in w) for w in words)
    return paths.check_run_name(partition.part_run_name(name.strip("-.")[:100], shard))


def identity(job: Job, model: ModelInfo) -> RunIdentity:
    """Return what makes two captures the same one.

    Args:
        job: The job.
        model: The model, as the manifest describes it.

    Returns:
        What model and data hold, not where they were read from; the options but the index; and the libraries that compute.
    """
    source = job.source
    facts = {
        "model": model.model_dump(
            include={"architecture", "weights_hash", "tokenizer_hash", "dtype", "device", "attn_implementation"}
        ),
        "data": {"dataset": source.dataset, "config": source.config, "split": source.split, "reads": source.reads},
        "options": {k: v for k, v in asdict(job.options).items() if k != "index"},
        "batches": job.batch_rule,
        "versions": computing_versions(),
        **_template_date(job),
    }
    return RunIdentity(job.kind, facts)


def manifest(job: Job, staged: StagedRun, model: ModelInfo, progress: Progress, data_hash: str) -> Manifest:
    """Return a run's manifest.

    Args:
        job: The job that made it.
        staged: What its writer has staged.
        model: The model, as the manifest describes it.
        progress: What was captured.
        data_hash: A hash of the examples that were read.

    Returns:
        The manifest to publish the run with.
    """
    source, mean_loss = job.source, job.mean_loss(staged.folder)
    return Manifest(
        run_id=progress.run_id,
        kind=job.kind,
        parents=[*_parents(job.loaded, model), *job.options.parents],
        created_at=staged.created_at,
        seconds=staged.seconds,
        model=model,
        data=DataInfo(
            dataset=source.dataset, config=source.config, split=source.split, source=source.origin, hash=data_hash
        ),
        options=asdict(job.options) | _first_token(job) | _template_date(job),
        store_dtype=job.store,
        batches=job.batch_rule,
        sites=_site_infos(job, staged.promoted),
        counts=Counts(
            examples=progress.examples,
            sequences=progress.sequences,
            tokens=progress.tokens,
            predictions=staged.rows["next_token"],
            predicted_bytes=_predicted_bytes(job, staged),
            truncated=progress.truncated,
            altered=progress.altered,
            rows=staged.rows,
        ),
        bytes=sum(f.bytes for f in staged.files),
        files=staged.files,
        versions=versions(),
        mean_loss=mean_loss,
        perplexity=perplexity(mean_loss),
    )


def _predicted_bytes(job: Job, staged: StagedRun) -> int | None:
    if not staged.rows["next_token"]:
        return None
    return predicted_bytes(staged.folder, job.options.target_column)


def _template_date(job: Job) -> dict[str, str]:
    """Return the date that the chat template writes, where it writes one: on another day it is another capture."""
    written = template_date(job.loaded.tokenizer) if job.sequencing.chat_template else None
    return {} if written is None else {"template_date": written}


def _first_token(job: Job) -> dict[str, Any]:
    """Return the id of the token that a decoder's sequences begin with, unless a chat template or a target settles that."""
    body = job.anatomy.body
    if body.encoder_decoder or body.side == "enc" or job.sequencing.chat_template:
        return {}
    return {"bos_id": job.sequencing.first_token}


def _parents(loaded: loading.Loaded, model: ModelInfo) -> list[str]:
    """Return the run that fine-tuned the model, if its weights are still those that came out of it."""
    finetuned = loaded.finetuned
    return [finetuned.run_id] if finetuned is not None and finetuned.weights_hash == model.weights_hash else []


def _site_infos(job: Job, promoted: dict[str, str]) -> list[SiteInfo]:
    groups: dict[tuple[str, str, TensorSpec], list[Key]] = {}
    for key, spec in job.plan.stored.items():
        groups.setdefault((key.side, key.site, spec), []).append(key)
    return [
        SiteInfo.model_validate(
            {
                "side": side,
                "site": site,
                "layers": [k.layer for k in keys],
                "rows": spec.row_kind,
                "row_shape": list(spec.row_shape),
                "dtype": spec.stored_dtype,
                "promoted": {n: promoted[n] for n in (sites.tensor_name(*k) for k in keys) if n in promoted},
            }
        )
        for (side, site, spec), keys in groups.items()
    ]
