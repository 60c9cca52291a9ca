"""From a run of kind `trait-responses` to arrays: which responses count, and the mean of each over its own tokens, by layer.

A positive response counts where its judge says that it shows the trait, a negative one where it does not, and either only if it is
coherent. `FILTERS` has two readings of that. `extract` and `evaluate` call this module.

**Layer l is the output of block l**; layer None is `resid.embed`, the input of the first. A mean covers the tokens that the model
generated without special ones; prompt and padding are not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from warehouse.errors import UsageError
from warehouse.schema import sites
from warehouse.schema.sites import MEAN, Key
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath
from warehouse.storage.run_list import find_run
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

COHERENT = 50.0
"""Lowest coherence score of a response that counts."""

FILTERS = {
    "pairs": "a positive response and the negative one to the same question, under the other instruction of its pair and in the same "
    "place among those, both count or neither does: positive {threshold:g} or more, negative below {other:g}, both with a coherence "
    "of {coherent:g} or more",
    "questions": "each response by itself: positive {threshold:g} or more, negative below {threshold:g}, with a coherence of {coherent:g} "
    "or more, or unknown; only questions with responses of both polarities left",
}
"""How a threshold t is read. `pairs` is the rule of Chen et al. 2025, "Persona Vectors": their code keeps the rows where the positive's
score is at least t, the negative's below 100 - t, and both coherences are at least 50. A NULL fails."""

COMPONENTS = {"residual": "resid.post_mlp", "attn_out": "attn_out"}
"""The components that have vectors, and their sites; layer None of `residual` is `resid.embed`."""

_RESPONSES_SQL = """
    SELECT r.example_id, r.seq, r.polarity, r.question_idx,
        concat_ws('-', r.question_idx, r.instruction_idx, row_number() OVER (
            PARTITION BY r.question_idx, r.instruction_idx, r.polarity ORDER BY e.idx, r.seq, r.example_id
        )) AS pair, j.trait_score, j.coherence_score, coalesce(t.n, 0) AS n_tokens
    FROM responses AS r
    LEFT JOIN examples AS e ON e.run_id = r.run_id AND e.example_id = r.example_id
    LEFT JOIN (
        SELECT * FROM judgements WHERE run_id = $judge AND source_run_id = $run AND trait = $trait
    ) AS j ON j.example_id = r.example_id AND j.seq = r.seq
    LEFT JOIN (
        SELECT example_id, seq, count(*) AS n FROM tokens WHERE run_id = $run AND is_response AND NOT is_special GROUP BY ALL
    ) AS t ON t.example_id = r.example_id AND t.seq = r.seq
    WHERE r.run_id = $run
    ORDER BY r.question_idx, r.polarity DESC, r.instruction_idx, r.example_id, r.seq
"""


@dataclass(frozen=True)
class SelectedResponses:
    """The n responses of a run that count."""

    run_id: str
    trait: str
    judge_run: str | None
    """The run whose scores decided; None: all responses count."""
    keys: list[tuple[str, int]]
    """(example_id, seq) of each, n in all."""
    positive: np.ndarray
    """(n,) bool: whether it is a positive response."""
    question: np.ndarray
    """(n,): its question_idx."""
    dropped: dict[str, int]
    """How many responses do not count, by reason."""
    filtered: str
    """The rule that decided, in words."""
    n_questions: int
    """Number of questions in the definition."""

    @property
    def questions(self) -> list[int]:
        """The questions with responses that count, in order."""
        return sorted(set(self.question.tolist()))

    @property
    def summary(self) -> str:
        """A line that says how many responses are left, and why others were left out."""
        n_pos = int(self.positive.sum())
        text = f"{n_pos} positive and {len(self.keys) - n_pos} negative responses to {len(self.questions)} questions"
        left_out = ", ".join(f"{n} {why}" for why, n in self.dropped.items() if n)
        return f"{self.trait}: {text}{f' (left out: {left_out})' if left_out else ''}; {self.filtered}"


def open_responses_run(root: AnyPath, run_id: str) -> TraceStore:
    """Open a run of a trait's responses.

    Args:
        root: The warehouse's folder.
        run_id: The run's name.

    Returns:
        The run's store.

    Raises:
        NotFoundError: There is no such run.
        UsageError: The run is not of kind `trait-responses`.
    """
    store = TraceStore(find_run(root, run_id))
    if store.meta.kind != "trait-responses":
        raise UsageError(
            f"Run '{run_id}' is of kind {store.meta.kind}: a trait's vectors are made from one of kind trait-responses "
            "(traces trait respond --help)."
        )
    return store


def trait_name(store: TraceStore) -> str:
    """Return the trait whose responses a run holds."""
    return str(store.meta.option("trait")["name"])


def find_newest_judge(wh: Warehouse, run_id: str) -> str | None:
    """Return the newest run that judged a run's responses, or None; raises UsageError where that is only a part."""
    row = (
        wh.cursor()
        .execute(
            "SELECT run_id FROM runs WHERE kind = 'judge' AND list_contains(parents, ?) ORDER BY created_at DESC, run_id DESC LIMIT 1",
            [run_id],
        )
        .fetchone()
    )
    if row is not None and (shard := paths.part_of(row[0])):
        raise UsageError(
            f"'{row[0]}', the newest judge of run '{run_id}', has judged only a part of it: traces runs merge {shard[0]}"
        )
    return None if row is None else str(row[0])


def select_responses(
    wh: Warehouse, run_id: str, threshold: float | None = 50.0, judge_run: str | None = None, rule: str = "pairs"
) -> SelectedResponses:
    """Select the responses of a run that count.

    Args:
        wh: The warehouse.
        run_id: A run of kind `trait-responses`.
        threshold: The trait score, 0 to 100, that separates positive from negative responses; None: all count.
        judge_run: The run with the scores; None: the newest. Without any, all responses count.
        rule: A key of `FILTERS`: how the threshold is read.

    Returns:
        The responses that count, to questions that both polarities answer.

    Raises:
        UsageError: Nothing is left of a polarity (the message says what the scores were), or of pairs or questions.
    """
    store = open_responses_run(wh.root, run_id)
    trait = trait_name(store)
    judge = None if threshold is None else judge_run or find_newest_judge(wh, run_id)
    rows = wh.cursor().execute(_RESPONSES_SQL, {"run": run_id, "judge": judge, "trait": trait}).fetchnumpy()
    positive = np.asarray(rows["polarity"] == "pos")
    score, coherence = (_scores(np.ma.asarray(rows[name])) for name in ("trait_score", "coherence_score"))
    kept = np.asarray(rows["n_tokens"]) > 0
    dropped = {"empty": int((~kept).sum())}
    for polarity, side in (("pos", positive), ("neg", ~positive)):
        if not side.any():
            raise UsageError(
                f"Run '{run_id}' has no responses of polarity {polarity}: a trait needs both. See traces trait respond --help"
            )
    together, filtered = "questions", "no filter, as the responses are not judged or --threshold is none"
    if judge is not None and threshold is not None:
        together, below = rule, 100 - threshold if rule == "pairs" else threshold
        filtered = f"filter {rule}, {FILTERS[rule].format(threshold=threshold, other=below, coherent=COHERENT)}"
        shown = np.where(positive, score >= threshold, score < below)  # NaN is neither
        for why, passes in (
            ("without a score", ~np.isnan(score)),
            ("on the other side of the threshold", shown),
            ("without a coherence score", (rule != "pairs") | ~np.isnan(coherence)),
            (f"with coherence below {COHERENT:g}", np.isnan(coherence) | (coherence >= COHERENT)),
        ):
            dropped[why] = int((kept & ~passes).sum())
            kept &= passes
        for side, limit in ((positive, f"{threshold:g} or more"), (~positive, f"below {below:g}")):
            if not (kept & side).any():
                name = "positive" if side is positive else "negative"
                remedy = "Lower" if side is positive or rule == "pairs" else "Raise"
                raise UsageError(
                    _nothing_left_message(name, limit, remedy, run_id, judge, score[side], coherence[side])
                )
    question = np.asarray(rows["question_idx"], np.int64)
    group = question if together == "questions" else np.asarray(rows["pair"]).astype(str)
    both = np.isin(group, np.intersect1d(group[kept & positive], group[kept & ~positive]))
    if not both.any():
        raise UsageError(
            f"No question of run '{run_id}' has both a positive and a negative response that counts: lower --threshold, or "
            "make more responses."
            if together == "questions"
            else f"No positive response of run '{run_id}' counts together with the negative one of its pair: lower --threshold, take each "
            "by itself (--filter questions), or make more responses."
        )
    why = (
        "to a question without one of the other polarity"
        if together == "questions"
        else "whose other of the pair does not count"
    )
    dropped[why] = int((kept & ~both).sum())
    kept &= both
    keys = list(zip(rows["example_id"][kept].tolist(), rows["seq"][kept].tolist(), strict=True))
    n_questions = len(store.meta.option("trait")["questions"])
    return SelectedResponses(run_id, trait, judge, keys, positive[kept], question[kept], dropped, filtered, n_questions)


def _scores(column: np.ndarray) -> np.ndarray:
    """Return scores as (n,) float64, NaN for NULL."""
    return np.ma.filled(np.ma.asarray(column, np.float64), np.nan)


def _nothing_left_message(
    name: str, limit: str, remedy: str, run_id: str, judge: str, score: np.ndarray, coherence: np.ndarray
) -> str:
    scored = score[~np.isnan(score)]
    start = f"No {name} response of run '{run_id}' has a trait score of {limit} and is coherent"
    remedy = f"{remedy} --threshold, take all with --threshold none, or judge with a stronger judge."
    if not len(scored):
        return f"{start}: '{judge}' has a score for none of the {len(score)}. {remedy}"
    low, q1, median, q3, high = np.quantile(scored, [0, 0.25, 0.5, 0.75, 1])
    return (
        f"{start}: of {len(score)}, '{judge}' scored {len(scored)}, from {low:.0f} to {high:.0f} (quartiles {q1:.0f}, {median:.0f}, "
        f"{q3:.0f}), and found {int((coherence < COHERENT).sum())} incoherent, {int(np.isnan(coherence).sum())} without a coherence "
        f"score. {remedy}"
    )


def choose_held_out(selected: SelectedResponses, part: float, seed: int) -> list[int]:
    """Choose the questions that are held out for the evaluation.

    They are the first that count in a seeded order of all the definition's questions, so that another threshold holds out much
    the same ones.

    Args:
        selected: The responses that count.
        part: The fraction of their questions; at least one question unless it is 0, and never all.
        seed: Of the order.

    Returns:
        Their places in the definition, in order.
    """
    questions = selected.questions
    n = min(max(1, round(part * len(questions))), len(questions) - 1) if part else 0
    order = np.random.default_rng(seed).permutation(selected.n_questions)
    return sorted([int(q) for q in order if q in set(questions)][:n])


class ResponseMeans:
    """Means over the response tokens of some sequences of a run, one tensor at a time."""

    def __init__(self, store: TraceStore, keys: Sequence[tuple[str, int]]) -> None:
        self.store, self.keys = store, list(keys)
        self._side = store.meta.model.side
        self._masks: list[np.ndarray] | None = None

    def layers(self, component: str) -> list[int | None]:
        """Return the layers that have means, None (`resid.embed`) first; empty where the run stored nothing of the component."""
        site = COMPONENTS[component]
        stored = {i for s in (MEAN + site, site) for i in self.store.layers_with(s, self._side)}
        embed: list[int | None] = [None] if component == "residual" and self._stored_key(component, None) else []
        return [*embed, *sorted(stored)]

    def vectors(self, component: str, layer: int | None) -> np.ndarray:
        """Load the means of a layer, or compute them from the stored tokens.

        Args:
            component: `residual` or `attn_out`.
            layer: The layer; None is `resid.embed`.

        Returns:
            (n, D) float32, a row a sequence.

        Raises:
            UsageError: The run stored neither (the message has the command that does), or a value is not finite.
        """
        key = self._stored_key(component, layer)
        if key is None:
            raise UsageError(self._missing_message(component, layer))
        means = self._load_means(key) if key.site.startswith(MEAN) else self._average_tokens(key)
        if not np.isfinite(means).all():
            raise UsageError(
                f"Run '{self.store.meta.run_id}': {key.site} has values in layer {layer} that are not finite (NaN or infinity)."
            )
        return means

    def _stored_key(self, component: str, layer: int | None) -> Key | None:
        site = "resid.embed" if component == "residual" and layer is None else COMPONENTS[component]
        keys = (Key(self._side, s, layer) for s in (MEAN + site, site))
        return next((k for k in keys if self.store.has(k)), None)

    def _load_means(self, key: Key) -> np.ndarray:
        places = [self.store.place(key, *k) for k in self.keys]
        means = np.empty((len(places), *self.store.row_shape(key)), np.float32)
        for blob in {b for b, _, _ in places}:
            mine = np.array([i for i, (b, _, _) in enumerate(places) if b == blob])
            rows = self.store.blob(blob).tensor(sites.tensor_name(*key))
            means[mine] = rows[[places[i][1] for i in mine]]
        return means

    def _average_tokens(self, key: Key) -> np.ndarray:
        if self._masks is None:
            self._masks = self._response_tokens()
        rows = (self.store.rows(key, *k)[mask] for k, mask in zip(self.keys, self._masks, strict=True))
        return np.stack([x.mean(0, dtype=np.float32) for x in rows])

    def _response_tokens(self) -> list[np.ndarray]:
        """Return which tokens of each sequence count, (T,) bool each."""
        answer = self.store.query(
            "SELECT example_id, seq, list(is_response AND NOT is_special ORDER BY pos) FROM tokens WHERE side = ? GROUP BY ALL",
            [self._side],
        )
        masks = {(e, s): np.array(mask, bool) for e, s, mask in answer.fetchall()}
        return [masks[k] for k in self.keys]

    def _missing_message(self, component: str, layer: int | None) -> str:
        meta, site = self.store.meta, "resid.embed" if layer is None else COMPONENTS[component]
        if layer is not None and self.layers(component):
            stored = ", ".join("embed" if i is None else str(i) for i in self.layers(component))
            return f"Run '{meta.run_id}' has no {site} in layer {layer}; it has {stored}."
        return (
            f"Run '{meta.run_id}' stored neither {MEAN}{site} nor {site}. Make the responses again with it: traces trait respond "
            f"--trait {trait_name(self.store)} --model {meta.model.name} --capture means --run NEW"
        )
