"""Every language model class of transformers, built small and checked: what `make sweep` runs, and docs/models.md is made of.

Each class in the causal, masked and sequence-to-sequence mappings is built with random weights (`tests/zoo.py`) and goes
through `traces model check`'s own code. A class passes where every site is right, is partial where a site is not there and the
reason is known, and fails where it cannot be recorded. What can be changed in it has a column of its own, and
so have its edges.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
import zoo
from transformers.utils import logging

from capture.verification.model_check import check
from capture.verification.model_report import Finding, ModelReport
from warehouse.errors import TracesError

DOCS = Path(__file__).parents[1] / "docs" / "models.md"
_SECONDS = 120

RESULTS = {
    "whole": "every site in every layer",
    "partial": "residual streams, and some sites are not there",
    "refused": "recorded not at all, with the reason",
    "not run": "does not build or run small",
    "wrong": "a site is wrong",
}


@dataclass(frozen=True)
class Row:
    model_type: str
    model: str
    result: str
    attention: str
    interventions: str
    edges: str
    notes: str


def rows(only: str | None = None) -> Iterator[Row]:
    for candidate in zoo.candidates():
        if only is None or only in (candidate.model_type, candidate.model.__name__):
            yield _row(candidate)


def _row(candidate: zoo.Candidate) -> Row:
    names = (candidate.model_type, candidate.model.__name__)
    try:
        with _time_limit(_SECONDS):
            model = zoo.shrunk(candidate)
    except Exception as e:
        return Row(*names, "not run", "", "", "", _line(e))
    try:
        with _time_limit(_SECONDS):
            found = check(model)
    except TracesError as e:
        return Row(*names, "refused", "", "", "", _line(e))
    except Exception as e:
        return Row(*names, "not run", "", "", "", f"{type(e).__name__}: {_line(e)}")
    attention = " / ".join(dict.fromkeys(found.attn.values()))
    return Row(*names, _result(found), attention, _interventions(found), _edges(found), _notes(found))


def _result(found: ModelReport) -> str:
    if not found.passed:
        return "wrong"
    return "whole" if found.whole else "partial"


def _interventions(found: ModelReport) -> str:
    """`whole`, or what cannot be changed in any layer, whether passes cannot begin at a layer, and what cannot be told apart."""
    absent = [_name(f, found) for f in found.interventions if f.status == "absent"]
    sites = [name.replace("edit ", "") for name in absent if "edit " in name]
    parts = [name.removesuffix(" parts") for name in absent if name.endswith(" parts")]
    said = [f"all but {', '.join(sites)}"] if sites else []
    said += ["passes in whole"] if "restart" in absent else []
    said += [f"no parts by {' or '.join(parts)}"] if parts else []
    return "; ".join(said) or "whole"


def _edges(found: ModelReport) -> str:
    """`whole`, where attention is one node, or why edges cannot be told apart."""
    scores = found.edges[0]
    if scores.status == "absent":
        reason = re.sub(r", by [^ ]+ of it", "", scores.how).split(": ")[0]
        return f"none: {reason}"
    _, one_node, where = scores.how.partition("attention is one node ")
    return f"attention is one node {where.split(':')[0]}" if one_node else "whole"


def _name(f: Finding, found: ModelReport) -> str:
    return f"enc.{f.site}" if f.side == "enc" and "dec" in found.attn else f.site


def _notes(found: ModelReport) -> str:
    """What is not there, sites with the same reason together."""
    reasons: dict[str, list[str]] = {}
    for f in (*found.findings, *(f for f in (*found.interventions, *found.edges) if f.status == "wrong")):
        site = _name(f, found)
        if f.status == "wrong":
            reasons.setdefault(f"WRONG by {f.error:.1e} ({f.how})", []).append(site)
        elif f.status == "absent":
            reasons.setdefault(f.how, []).append(site)
        elif f.layers:
            layers = "layers" if "," in f.layers else "layer"
            reasons.setdefault(f"only in {layers} {f.layers}", []).append(site)
        elif f.site == "batches" and "depends" in f.how:
            reasons.setdefault(re.sub(r" \([^)]*\)", "", f.how), [])  # of one pair of texts
    return "; ".join(f"{', '.join(sites)}: {reason}" if sites else reason for reason, sites in reasons.items())


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def table(found: list[Row]) -> str:
    counts = Counter(r.result for r in found)
    recorded = counts["whole"] + counts["partial"]
    lines = [
        "# Models",
        "",
        "Made by `make sweep`, which builds every language model class of transformers small, with random weights, and holds",
        "every site that is recorded against what the model itself computes (`traces model check`). Interventions are held against",
        "what must follow of them: a stream put in from other tokens gives their states, zeros leave the stream as it was. Where",
        "passes run in whole, ablation takes a forward pass each; parts by head or by logit are what `traces influence` adds up.",
        "Edges are what circuits are made of (`traces circuit`): whole, they are scored and masked for each q, k and v of each head;",
        "where attention is one node, its heads are told apart as readers and not as writers.",
        "",
        f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}: {len(found)} classes, **{recorded} recorded**:",
        "",
        *(f"- {counts[name]} {name}: {meaning}" for name, meaning in RESULTS.items()),
        "",
        "| model type | class | result | attention | interventions | edges | what is not there, and why |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r.model_type} | {r.model} | {r.result} | {r.attention} | {r.interventions} | {r.edges} | {r.notes.replace('|', '/')} |"
        for r in found
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="a model type or class; prints its row and writes nothing")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    found = []
    for row in rows(args.only):
        found.append(row)
        print(
            f"{row.result:8s} {row.model_type:28s} {row.model:44s} {row.attention:10s} {row.interventions} | {row.edges} | {row.notes}",
            flush=True,
        )
    if args.only is None:
        DOCS.write_text(table(found), encoding="utf-8")
    print(", ".join(f"{n} {name}" for name, n in Counter(r.result for r in found).items()))
    sys.exit(any(r.result == "wrong" for r in found))


if __name__ == "__main__":
    main()
