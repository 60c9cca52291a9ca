"""What a circuit is looked for with, and what one is tried on: options of both runs, checked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from capture.edges.edge_scores import GRADIENT_METHODS
from capture.jobs.job import check_option_values
from capture.recording.metrics import METRICS
from warehouse.analysis.circuit_selection import SELECTIONS
from warehouse.errors import NotFoundError, UsageError

EXACT, RANDOM = "exact", "random"
METHODS = (*GRADIENT_METHODS, EXACT, RANDOM)
LEVELS = ("edge", "node")
ABLATIONS = ("resample", "mean", "zero")
SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def level_of(method: str, level: str) -> str:
    """Return what a method scores; without a choice edges, and of patching nodes, as every edge is a forward pass there."""
    return level or ("node" if method == EXACT else "edge")


@dataclass(frozen=True)
class DiscoverOptions:
    """How a circuit is found. All of it identifies a run: resuming compares it."""

    methods: tuple[str, ...] = ("eap-ig",)
    steps: int = 5
    """Gradients that `eap-ig` averages."""
    level: str = ""
    """`edge` or `node`; empty: `edge`, of `exact` `node`."""
    metric: str = ""
    """`logit_diff`, `prob_diff`, `logprob` or `kl`; empty: the task's own."""
    share: float = 0.5
    """The part of the pairs that it is found on."""
    seed: int = 0
    resamples: int = 100
    verify: int = 0
    """How many of the strongest edges of the first method are patched, and as many random ones."""
    batch_tokens: int | None = None
    """The most tokens of a batch of pairs, both prompts and padding counted; None: as many as there is memory for."""
    shard: str = ""
    """`i/n`: every n-th pair, from the i-th on."""

    def __post_init__(self) -> None:
        """Check values; raises UsageError or NotFoundError for one that its option does not take."""
        check_option_values(self, largest={})
        _check_names("method", self.methods, METHODS)
        _check_name("level", self.level, LEVELS)
        _check_name("metric", self.metric, METRICS)
        if not 0 < self.share <= 1:
            raise UsageError(f"--share {self.share:g}: the part of the pairs to find it on, above 0 and up to 1.")
        if self.verify and level_of(self.methods[0], self.level) == "node":
            raise UsageError(
                f"--verify {self.verify} patches edges, and --method {self.methods[0]} scores nodes: --level edge."
            )


@dataclass(frozen=True)
class EvaluateOptions:
    """What a circuit is put to. All of it identifies a run."""

    circuit: str
    """RUN, or RUN/NAME."""
    sizes: tuple[float, ...] = SIZES
    """Shares of all edges, or nodes."""
    selections: tuple[str, ...] = ("abs",)
    ablations: tuple[str, ...] = ("resample",)
    level: str = ""
    """Chosen by the scores of `edge`s or `node`s; empty: edges, where they have scores."""
    metric: str = ""
    """Empty: on the circuit's own task the one that it was found by, else the task's own."""
    random: int = 3
    """Draws of random circuits of each size."""
    complement: bool = True
    """Whether all edges but the circuit's are tried too."""
    batch_tokens: int | None = None
    shard: str = ""

    def __post_init__(self) -> None:
        """Check values; raises UsageError or NotFoundError for one that its option does not take."""
        check_option_values(self, largest={})
        _check_names("selection", self.selections, SELECTIONS)
        _check_names("kind of ablation", self.ablations, ABLATIONS)
        _check_name("level", self.level, LEVELS)
        _check_name("metric", self.metric, METRICS)
        if not self.sizes or not all(0 < size <= 1 for size in self.sizes):
            given = ",".join(f"{size:g}" for size in self.sizes) or "nothing"
            raise UsageError(f"--sizes {given}: give shares of all edges, above 0 and up to 1.")
        if self.level == "node" and "greedy" in self.selections:
            raise UsageError(
                "--selection greedy follows edges from the logits upwards: use abs or signed at --level node."
            )
        object.__setattr__(self, "sizes", tuple(sorted(set(map(float, self.sizes)))))


def parse_sizes(text: str) -> tuple[float, ...]:
    """Return sizes that are written as `.001,.01,1`; raises UsageError for one that is no number."""
    try:
        return tuple(float(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise UsageError(f"--sizes {text}: give shares of all edges, as in .001,.01,.1,1") from None


def _check_name(kind: str, name: str, known: tuple[str, ...]) -> None:
    if name and name not in known:
        raise NotFoundError(kind, name, known)


def _check_names(kind: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not names:
        raise UsageError(f"Name a {kind}: {', '.join(known)}.")
    for name in names:
        if name not in known:
            raise NotFoundError(kind, name, known)
    if len(set(names)) < len(names):
        raise UsageError(f"Name every {kind} once: {', '.join(names)}.")
