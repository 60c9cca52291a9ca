"""From a run of kind `trait-responses` to arrays: which responses count, and the mean of each over its own tokens, layer by layer.

A response counts where its judge says of a positive one that it shows the trait, of a negative one that it does not, and of either
that it is coherent. `FILTERS` has two readings of that.

**Layer l is the output of block l**; layer None is `resid.embed`, what enters the first. A mean is over the tokens that the model
generated, special ones left out: the prompt and padding are not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from warehouse.errors import UsageError
from warehouse.schema import sites
from warehouse.schema.sites import MEAN, Key
from warehouse.storage import paths
from warehouse.storage.paths import find_run
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

COHERENT = 50.0
"""The least coherence score of a response that counts."""

FILTERS = {
    "pairs": "of each positive response and the negative one to the same question, under the other instruction of its pair, in the same "
    "place among those, both count or neither: positive {threshold:g} or more, negative below {other:g}, both with a coherence of "
    "{coherent:g} or more",
    "questions": "each response by itself: positive {threshold:g} or more, negative below {threshold:g}, with a coherence of {coherent:g} "
    "or more, or not known; to questions that both are left of",
}
"""How a threshold t is read. `pairs` is that of Chen et al. 2025, "Persona Vectors" (their code keeps the rows where the positive's
score is at least t, the negative's below 100 - t, and both coherences are at least 50): a NULL is on no side of it."""

COMPONENTS = {"residual": "resid.post_mlp", "attn_out": "attn_out"}
"""What a vector can live in, and its site; under `residual`, layer None is `resid.embed`."""

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
    """The responses of a run that count, by question."""

    run_id: str
    trait: str
    judge_run: str | None
    """Whose scores decided; None: all responses count."""
    keys: list[tuple[str, int]]
    """(example_id, seq) of each, n in all."""
    positive: np.ndarray
    """(n,) bool"""
    question: np.ndarray
    """(n,) question_idx"""
    dropped: dict[str, int]
    """How many responses don't count, by why."""
    filtered: str
    """By which rule, in words."""
    n_questions: int
    """Of the definition, whether there are responses to them that count or not."""

    @property
    def questions(self) -> list[int]:
        return sorted(set(self.question.tolist()))

    def summary(self) -> str:
        """In a line: how many are left, and where the others went."""
        n_pos = int(self.positive.sum())
        text = f"{n_pos} positive and {len(self.keys) - n_pos} negative responses to {len(self.questions)} questions"
        left_out = ", ".join(f"{n} {why}" for why, n in self.dropped.items() if n)
        return f"{self.trait}: {text}{f' (left out: {left_out})' if left_out else ''}; {self.filtered}"


def open_responses_run(root: Path, run_id: str) -> TraceStore:
    """Raises NotFoundError for a run that is not there, UsageError for one that is not of a trait's responses."""
    store = TraceStore(find_run(root, run_id))
    if store.meta.kind != "trait-responses":
        raise UsageError(
            f"Run '{run_id}' is of kind {store.meta.kind}: a trait's vectors are made from one of kind trait-responses "
            "(traces trait respond --help)."
        )
    return store


def trait_name(store: TraceStore) -> str:
    """The trait whose responses a run holds."""
    return str(store.meta.option("trait")["name"])


def find_newest_judge(wh: Warehouse, run_id: str) -> str | None:
    """The newest run that judged a run's responses; None: none has. Raises UsageError where that judged a share of them."""
    row = wh.connection.execute(
        "SELECT run_id FROM runs WHERE kind = 'judge' AND list_contains(parents, ?) ORDER BY created_at DESC, run_id DESC LIMIT 1",
        [run_id],
    ).fetchone()
    if row is not None and (shard := paths.part_of(row[0])):
        raise UsageError(
            f"'{row[0]}', the newest judge of run '{run_id}', has judged a share of it: traces runs merge {shard[0]}"
        )
    return None if row is None else str(row[0])


def select_responses(
    wh: Warehouse, run_id: str, threshold: float | None = 50.0, judge_run: str | None = None, rule: str = "pairs"
) -> SelectedResponses:
    """The responses of run `run_id` that count by a rule of `FILTERS` and its threshold. The judge is run `judge_run`, else the newest;
    where there is none, or without a threshold, all count, to questions that both polarities answer.

    Raises UsageError where nothing is left of a polarity, with what the scores were, or of pairs or questions.
    """
    store = open_responses_run(wh.root, run_id)
    trait = trait_name(store)
    judge = None if threshold is None else judge_run or find_newest_judge(wh, run_id)
    found = wh.connection.execute(_RESPONSES_SQL, {"run": run_id, "judge": judge, "trait": trait}).fetchnumpy()
    positive = np.asarray(found["polarity"] == "pos")
    score, coherence = (_scores(np.ma.asarray(found[name])) for name in ("trait_score", "coherence_score"))
    kept = np.asarray(found["n_tokens"]) > 0
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
    question = np.asarray(found["question_idx"], np.int64)
    group = question if together == "questions" else np.asarray(found["pair"]).astype(str)
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
    keys = list(zip(found["example_id"][kept].tolist(), found["seq"][kept].tolist(), strict=True))
    n_questions = len(store.meta.option("trait")["questions"])
    return SelectedResponses(run_id, trait, judge, keys, positive[kept], question[kept], dropped, filtered, n_questions)


def _scores(column: np.ndarray) -> np.ndarray:
    """(n,) float64, NaN for NULL."""
    return np.ma.filled(np.ma.asarray(column, np.float64), np.nan)


def _nothing_left_message(
    name: str, limit: str, remedy: str, run_id: str, judge: str, score: np.ndarray, coherence: np.ndarray
) -> str:
    told = score[~np.isnan(score)]
    start = f"No {name} response of run '{run_id}' has a trait score of {limit} and is coherent"
    remedy = f"{remedy} --threshold, take all with --threshold none, or judge with a stronger judge."
    if not len(told):
        return f"{start}: '{judge}' has a score for none of the {len(score)}. {remedy}"
    low, q1, median, q3, high = np.quantile(told, [0, 0.25, 0.5, 0.75, 1])
    return (
        f"{start}: of {len(score)}, '{judge}' scored {len(told)}, from {low:.0f} to {high:.0f} (quartiles {q1:.0f}, {median:.0f}, "
        f"{q3:.0f}), and found {int((coherence < COHERENT).sum())} incoherent, {int(np.isnan(coherence).sum())} without a coherence "
        f"score. {remedy}"
    )


def choose_held_out(selected: SelectedResponses, part: float, seed: int) -> list[int]:
    """The questions to be kept for the evaluation: `part` of those that count, at least one unless `part` is 0, never all.

    They are the first that count in a seeded order of all the definition's, so that another threshold holds out much the same.
    """
    there = selected.questions
    n = min(max(1, round(part * len(there))), len(there) - 1) if part else 0
    order = np.random.default_rng(seed).permutation(selected.n_questions)
    return sorted([int(q) for q in order if q in set(there)][:n])


class ResponseMeans:
    """The mean over its response tokens of every sequence asked for, tensor by tensor."""

    def __init__(self, store: TraceStore, keys: Sequence[tuple[str, int]]) -> None:
        self.store, self.keys = store, list(keys)
        self._side = store.meta.model.side
        self._masks: list[np.ndarray] | None = None

    def layers(self, component: str) -> list[int | None]:
        """The layers that there are means of, None (`resid.embed`) first; none where the run stored nothing of the component."""
        site = COMPONENTS[component]
        stored = {i for s in (MEAN + site, site) for i in self.store.layers_with(s, self._side)}
        embed: list[int | None] = [None] if component == "residual" and self._stored_key(component, None) else []
        return [*embed, *sorted(stored)]

    def vectors(self, component: str, layer: int | None) -> np.ndarray:
        """(n, D) float32: the stored means, or the mean of the stored tokens. Raises UsageError where the run has neither, with the
        command that captures them, or where a value is not finite.
        """
        key = self._stored_key(component, layer)
        if key is None:
            raise UsageError(self._missing_message(component, layer))
        found = self._load_means(key) if key.site.startswith(MEAN) else self._average_tokens(key)
        if not np.isfinite(found).all():
            raise UsageError(
                f"Run '{self.store.meta.run_id}': {key.site} has values in layer {layer} that are not finite (NaN or infinity)."
            )
        return found

    def _stored_key(self, component: str, layer: int | None) -> Key | None:
        site = "resid.embed" if component == "residual" and layer is None else COMPONENTS[component]
        keys = (Key(self._side, s, layer) for s in (MEAN + site, site))
        return next((k for k in keys if self.store.has(k)), None)

    def _load_means(self, key: Key) -> np.ndarray:
        places = [self.store.place(key, *k) for k in self.keys]
        found = np.empty((len(places), *self.store.row_shape(key)), np.float32)
        for blob in {b for b, _, _ in places}:
            mine = np.array([i for i, (b, _, _) in enumerate(places) if b == blob])
            rows = self.store.blob(blob).tensor(sites.tensor_name(*key))
            found[mine] = rows[[places[i][1] for i in mine]]
        return found

    def _average_tokens(self, key: Key) -> np.ndarray:
        if self._masks is None:
            self._masks = self._response_tokens()
        rows = (self.store.rows(key, *k)[mask] for k, mask in zip(self.keys, self._masks, strict=True))
        return np.stack([x.mean(0, dtype=np.float32) for x in rows])

    def _response_tokens(self) -> list[np.ndarray]:
        """(T,) bool of each sequence."""
        answer = self.store.query(
            "SELECT example_id, seq, list(is_response AND NOT is_special ORDER BY pos) FROM tokens WHERE side = ? GROUP BY ALL",
            [self._side],
        )
        masks = {(e, s): np.array(mask, bool) for e, s, mask in answer.fetchall()}
        return [masks[k] for k in self.keys]

    def _missing_message(self, component: str, layer: int | None) -> str:
        meta, site = self.store.meta, "resid.embed" if layer is None else COMPONENTS[component]
        if layer is not None and self.layers(component):
            there = ", ".join("embed" if i is None else str(i) for i in self.layers(component))
            return f"Run '{meta.run_id}' has no {site} in layer {layer}; it has {there}."
        return (
            f"Run '{meta.run_id}' stored neither {MEAN}{site} nor {site}. Make the responses again with it: traces trait respond "
            f"--trait {trait_name(self.store)} --model {meta.model.name} --capture means --run NEW"
        )
