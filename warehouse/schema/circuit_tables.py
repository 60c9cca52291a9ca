"""The tables of circuits: which edges and nodes carry what a task asks for, and how much of it a circuit alone keeps."""

from __future__ import annotations

from warehouse.schema.columns import EXAMPLE, METRIC, RUN, TASK_RUN
from warehouse.schema.types import Column, Table

_CIRCUIT = Column(
    "circuit",
    "VARCHAR",
    "Its name in the run: the method, with ' 1/2' behind it where it is of a part of the pairs; imported: read from a file",
)
_ABLATION = (
    "resample: the corrupted prompt's values; mean: the mean at that position over the task's corrupted prompts; zero"
)


def _node(kind: str, layer: str, head: str, role: str = "") -> tuple[Column, ...]:
    return (
        Column(
            kind,
            "VARCHAR",
            f"{role}embed: the embedding; head; attn: an attention block as one, where heads cannot be told apart; mlp",
        ),
        Column(layer, "INTEGER", "Its layer, 0-based; NULL: embed", nullable=True),
        Column(head, "INTEGER", "Its query head, 0-based; NULL: not a head", nullable=True),
    )


_SCORES = (
    Column(
        "score",
        "DOUBLE",
        "Estimate of the metric with its values corrupted less the metric as it is, mean over pairs: below 0 helps. A score ranks; it "
        "is no effect. NULL: the file had none",
        nullable=True,
    ),
    Column(
        "low",
        "DOUBLE",
        "Lower end of the score's 95 % interval, by bootstrap over circuits.unit; NULL: not resampled",
        nullable=True,
    ),
    Column("high", "DOUBLE", "Upper end", nullable=True),
    Column("rank", "INTEGER", "Its place by size of the score, 1 the largest; NULL: no score", nullable=True),
    Column(
        "selection_frequency",
        "DOUBLE",
        "Share of resamples in which it is among the first, as many as circuits says; NULL: not resampled",
        nullable=True,
    ),
    Column(
        "exact_effect",
        "DOUBLE",
        "Mean effect of truly giving it the corrupted values, intervened - baseline; NULL: not measured",
        nullable=True,
    ),
    Column(
        "in_graph", "BOOLEAN", "Whether the file that it was read from has it in the circuit; NULL: found here", nullable=True
    ),
)  # fmt: skip

CIRCUITS = Table(
    "circuits",
    "a circuit: scores of every edge or node of a model for a task, found by one method",
    ("run_id", "circuit"),
    (
        RUN,
        _CIRCUIT,
        Column("source_run_id", "VARCHAR", "The task's run; NULL: imported", nullable=True),
        Column("task", "VARCHAR", "Name of the task; NULL: imported", nullable=True),
        Column(
            "corruption",
            "VARCHAR",
            "What the pairs' second prompts changed, with ' | ' between where they differ: part of what the circuit is; NULL: imported",
            nullable=True,
        ),
        Column("metric", "VARCHAR", f"{METRIC.comment}; NULL: imported", nullable=True),
        Column(
            "method",
            "VARCHAR",
            "eap-ig: gradients averaged on the way from the corrupted to the clean embedding; eap: one gradient, on the clean prompt; "
            "gim: one backward pass with norms held and softmax smoothed; exact: patching; random; imported",
        ),
        Column("steps", "INTEGER", "Gradients that eap-ig averages; NULL: another method", nullable=True),
        Column("level", "VARCHAR", "What was scored. edge: edges, and the nodes that they leave; node: nodes alone"),
        Column("ablation", "VARCHAR", f"What the scores stand for: {_ABLATION}; NULL: imported", nullable=True),
        Column("n_layers", "INTEGER", "Layers of the model"),
        Column("n_heads", "INTEGER", "Query heads of a layer: the most that one has"),
        Column("n_kv_heads", "INTEGER", "Key-value heads of a layer: the most that one has"),
        Column("parallel", "BOOLEAN", "Whether MLPs read the stream that the attention of their layer reads"),
        Column("heads_apart", "BOOLEAN", "Whether every head is a node; else some attention blocks are one node each"),
        Column("n_examples", "INTEGER", "Pairs that it was found on; NULL: imported", nullable=True),
        Column("n_templates", "INTEGER", "Templates that they are from; NULL: none said, or imported", nullable=True),
        Column("n_edges", "INTEGER", "All edges of the model's graph"),
        Column("n_nodes", "INTEGER", "All nodes of the model's graph"),
        Column("n_resamples", "INTEGER", "Resamples of the bootstrap; NULL: none", nullable=True),
        Column(
            "unit",
            "VARCHAR",
            "What is drawn in a resample: pair, or template where there are 5 or more; NULL: none",
            nullable=True,
        ),
        Column("n_selected_edges", "INTEGER", "Edges that count as the first in selection_frequency", nullable=True),
        Column("n_selected_nodes", "INTEGER", "Nodes that count as the first in selection_frequency", nullable=True),
        Column("clean", "DOUBLE", "Mean metric of the clean prompts; NULL: imported", nullable=True),
        Column("corrupted", "DOUBLE", "Mean metric of the corrupted prompts; NULL: imported", nullable=True),
        Column(
            "completeness_error",
            "DOUBLE",
            "|Sum over pairs of embed's score - (corrupted - clean)|, as a share of |corrupted - clean| summed likewise: 0 where the "
            "averaged gradients account for all of the change; NULL: not eap-ig, or nothing changed",
            nullable=True,
        ),
        Column("seed", "INTEGER", "Chose the pairs, the resamples and what is random; NULL: imported", nullable=True),
    ),
)

CIRCUIT_NODES = Table(
    "circuit_nodes",
    "a node's score in a circuit",
    ("run_id", "circuit", "kind", "layer", "head"),
    (RUN, _CIRCUIT, *_node("kind", "layer", "head"), *_SCORES),
)

CIRCUIT_EDGES = Table(
    "circuit_edges",
    "an edge's score in a circuit: from what writes to the residual stream to what reads it",
    (
        "run_id", "circuit", "source_kind", "source_layer", "source_head", "sink_kind", "sink_layer", "sink_head", "port",
    ),
    (
        RUN,
        _CIRCUIT,
        *_node("source_kind", "source_layer", "source_head", "What writes. "),
        Column("sink_kind", "VARCHAR", "What reads: head, mlp or logits"),
        Column("sink_layer", "INTEGER", "Its layer, 0-based; NULL: logits", nullable=True),
        Column(
            "sink_head",
            "INTEGER",
            "Its query head at port q, its key-value head at k and v, 0-based; NULL: not a head",
            nullable=True,
        ),
        Column("port", "VARCHAR", "What the head reads it for: q, k or v; NULL: not a head", nullable=True),
        *_SCORES,
    ),
)  # fmt: skip

CIRCUIT_NODE_SCORES = Table(
    "circuit_node_scores",
    "a node's score on one of the pairs that a circuit was found on",
    ("run_id", "circuit", "example_id", "kind", "layer", "head"),
    (
        RUN,
        _CIRCUIT,
        EXAMPLE,
        *_node("kind", "layer", "head"),
        Column("score", "DOUBLE", "Estimate of the metric with its values corrupted less the metric as it is"),
    ),
)

CIRCUIT_VALUES = Table(
    "circuit_values",
    "a pair's metric with only a circuit's edges left as they are",
    (
        "run_id", "circuit_run_id", "circuit", "source_run_id", "level", "selection", "ablation", "metric", "variant", "draw", "size",
        "example_id",
    ),
    (
        RUN,
        Column("circuit_run_id", "VARCHAR", "The run of the circuit"),
        Column(
            "circuit",
            "VARCHAR",
            "The circuit: its name in that run; of one found in parts the method: the mean of the parts; ensemble: the mean of ranks of "
            "that run's methods",
        ),
        TASK_RUN,
        Column("level", "VARCHAR", "What it was chosen by. edge: edges; node: nodes, each with all edges that leave it"),
        Column(
            "selection",
            "VARCHAR",
            "abs: the largest scores by size; signed: the most negative; greedy: by size, from the logits upwards",
        ),
        Column("ablation", "VARCHAR", f"What all other edges carry. {_ABLATION}"),
        METRIC,
        Column(
            "variant",
            "VARCHAR",
            "circuit; complement: all edges but the circuit's; random: as many edges, drawn at random",
        ),
        Column("draw", "INTEGER", "Which draw of a random circuit, 0-based; else 0"),
        Column("size", "DOUBLE", "Size asked for: share of all edges, or of all nodes"),
        EXAMPLE,
        Column("n_asked", "INTEGER", "That many edges (nodes)"),
        Column(
            "n_edges",
            "INTEGER",
            "Edges left as they are: of the circuit without those that lead from or to nothing in it, of a random one as many (at level node "
            "all that leave as many nodes), of the complement all others",
        ),
        Column("held_out", "BOOLEAN", "Whether the circuit was found without this pair"),
        Column(
            "unit",
            "VARCHAR",
            "What a resample draws: the pair's template where the task has 5 or more, else the example_id",
        ),
        Column("value", "DOUBLE", "The metric of the clean prompt with the other edges ablated"),
        Column("full_value", "DOUBLE", "The metric of the clean prompt with nothing done: every edge kept"),
        Column("none_value", "DOUBLE", "The metric of the clean prompt with every edge ablated"),
    ),
)  # fmt: skip
