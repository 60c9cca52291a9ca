"""A loaded model and the jobs that it does for a console: every one of them leaves ordinary runs.

In goes a checked job; out come runs named `live-1`, `live-2`, …, what was derived from them (`live-1-lens`), and which examples to show.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from capture.api.derived import project_on_known_traits
from capture.api.intervened import plan_intervened
from capture.data.memory import open_texts
from capture.data.prompt_sets import open_prompts
from capture.features.feature_edits import find_feature
from capture.interventions.site_edits import head_count
from capture.jobs import generate, intervened, next_token
from capture.logit_lens import lens_run
from capture.model.failures import error_sentence
from capture.model.loading import Loaded
from capture.traits import steer
from warehouse.console.live_jobs import AblateJob, CaptureJob, GenerateJob, SteerJob
from warehouse.errors import TracesError, UsageError
from warehouse.maintenance.remove import locked_for_removal, remove_run
from warehouse.schema.sites import Key
from warehouse.storage import paths, run_list
from warehouse.storage.manifest import Manifest
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore

KEPT = "hidden,resid,qkv,heads"
"""What every run keeps: all that the console's views read."""
_LENS_TOP = 10
_OWN = re.compile(r"live-(\d{1,9})(-lens|-traits)?")

Tell = Callable[..., None]
"""Called with an event's name and facts."""


def remove_unfinished(root: AnyPath) -> None:
    """Delete what killed workers have left of their runs; what another process is writing now stays."""
    for name in paths.staged_runs(root):
        if _OWN.fullmatch(name) and not run_list.is_published(root, name):
            try:
                with locked_for_removal(root, name):
                    remove_run(root, name)
            except TracesError:
                continue


class Model:
    """A model that stays loaded."""

    def __init__(self, loaded: Loaded, root: AnyPath, tell: Tell) -> None:
        """Take a model.

        Args:
            loaded: The model, with its head.
            root: The warehouse's folder.
            tell: Told what happens.
        """
        self._loaded, self._root, self._tell = loaded, root, tell
        self._anatomy = loaded.anatomy

    def about(self) -> dict[str, Any]:
        """Return what the model is, and what can be done with it."""
        side = self._anatomy.main.side
        return {
            "model": self._loaded.name,
            "dtype": self._loaded.dtype,
            "layers": len(self._anatomy.main.layers),
            "heads": head_count(self._anatomy, Key(side, "q", 0)),
            "chat": self._chat,
            "window": self._loaded.window,
        }

    @property
    def _chat(self) -> bool:
        return bool(getattr(self._loaded.tokenizer, "chat_template", None))

    def do(self, job: CaptureJob | GenerateJob | AblateJob | SteerJob) -> dict[str, Any]:
        """Do a job.

        Args:
            job: What is asked for.

        Returns:
            What to look at: `run` and `examples`, of an ablation `clean`, too.
        """
        if isinstance(job, CaptureJob):
            return self._capture(job)
        if isinstance(job, GenerateJob):
            return self._generate(job)
        if isinstance(job, AblateJob):
            return self._ablate(job)
        return self._steer(job)

    def _capture(self, job: CaptureJob) -> dict[str, Any]:
        text = job.prompt if job.prompt is not None else self._chat_text(job)
        # a template writes the BOS itself
        options = next_token.Options(capture=KEPT, prepend_bos="no" if job.turns else "auto")
        run = self._publish(next_token.run, open_texts([text]), options, "capture")
        if job.lens:
            self._lens(run)
        return self._shown(run)

    def _chat_text(self, job: CaptureJob) -> str:
        """Return a chat as the model's template writes it; raises UsageError where it has none, or the template fails."""
        if not self._chat:
            raise UsageError(f"{self._loaded.name} has no chat template: give a prompt.")
        turns = [t.model_dump() for t in job.turns]
        try:
            text: str = self._loaded.tokenizer.apply_chat_template(turns, tokenize=False)
        except Exception as e:  # a template is a program of its own
            raise UsageError(
                f"{self._loaded.name}: its chat template fails on these turns: {error_sentence(e)}"
            ) from None
        return text

    def _generate(self, job: GenerateJob) -> dict[str, Any]:
        options = generate.Options(
            capture=KEPT, max_new_tokens=job.max_new_tokens, temperature=job.temperature, seed=job.seed
        )
        start, _ = generate.define_kind(generate.KIND, self._watch(job.max_new_tokens))
        run = self._publish(start, open_prompts([job.prompt]), options, "response")
        projection = project_on_known_traits(self._root, run, lambda _: None)
        if projection is not None:
            self._tell("published", run=projection.run_id, what="projection on traits")
        return self._shown(run)

    def _ablate(self, job: AblateJob) -> dict[str, Any]:
        clean = TraceStore(run_list.find_run(self._root, job.run))
        source, options = plan_intervened(clean, [str(cut) for cut in job.cuts], [job.example])
        start, _ = intervened.define_kind(self._root, find_feature)
        run = self._publish(start, source, options, "with the cut")
        if clean.query("SELECT 1 FROM tensors WHERE site = 'resid.post_mlp' LIMIT 1").fetchone():
            self._lens(run)
        return self._shown(run) | {"clean": job.run}

    def _steer(self, job: SteerJob) -> dict[str, Any]:
        layers = "mid" if job.layer is None else [job.layer]
        choice = steer.choose_vectors(self._root, job.trait, None, "mean_diff", "residual", layers)
        options = steer.make_options(
            choice, (0.0, job.coefficient), 0,
            capture=KEPT, max_new_tokens=job.max_new_tokens, temperature=job.temperature, seed=job.seed,
        )  # fmt: skip
        start, _ = steer.define_kind(choice.vectors, choice.model.space, self._watch(job.max_new_tokens))
        return self._shown(self._publish(start, steer.prompt_source(options, job.prompt), options, "steered"))

    def _publish(self, start: Callable[..., Manifest], source: Any, options: Any, what: str) -> str:
        """Make a run; return its name."""
        name = self._free_name()
        start(self._loaded, source, options, root=self._root, run_id=name)
        self._tell("published", run=name, what=what)
        return name

    def _lens(self, run: str) -> None:
        """Make the logit lens of a run."""
        self._tell("progress", what="logit lens", done=0, total=1)
        name = f"{run}-lens"
        lens_run.run(
            self._loaded,
            paths.run_dir(self._root, run),
            lens_run.Options(_LENS_TOP, "all", "all"),
            root=self._root,
            run_id=name,
        )
        self._tell("published", run=name, what="logit lens")

    def _free_name(self) -> str:
        """Return the next name of a run that no run has or is being written under."""
        taken = [*run_list.published_runs(self._root), *paths.staged_runs(self._root)]
        return f"live-{1 + max((int(m[1]) for name in taken if (m := _OWN.fullmatch(name))), default=0)}"

    def _watch(self, total: int) -> Callable[[np.ndarray], None]:
        """Return what tells of every token that is drawn; of several responses, the first one's text."""
        drawn: list[int] = []

        def watch(tokens: np.ndarray) -> None:
            drawn.append(int(tokens[0]))
            text = self._loaded.tokenizer.decode(drawn, skip_special_tokens=True)
            self._tell("progress", what="response", done=len(drawn), total=total, text=text)

        return watch

    def _shown(self, run: str) -> dict[str, Any]:
        """Return which examples of a run to look at: all of the few that it has."""
        store = TraceStore(paths.run_dir(self._root, run))
        return {
            "run": run,
            "examples": [e for (e,) in store.query("SELECT example_id FROM examples ORDER BY idx").fetchall()],
        }
