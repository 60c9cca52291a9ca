from __future__ import annotations

import json

from warehouse.schema.tables import SCHEMA_VERSION
from warehouse.storage.run_identity import RunIdentity

IDENTITY = RunIdentity("probe", {"layers": (0, 1), "target": "upos"}, parents={"wt2": "ab12"})


def test_the_journal_gives_back_what_it_was_given() -> None:
    entry = IDENTITY.to_dict()
    assert json.loads(json.dumps(entry)) == entry, "a tuple, say, would come back as a list and differ"
    assert entry == {
        "kind": "probe",
        "schema_version": SCHEMA_VERSION,
        "parents": {"wt2": "ab12"},
        "layers": [0, 1],
        "target": "upos",
    }
    assert "parents" not in RunIdentity("encode", {}).to_dict()


def test_whatever_differs_gives_another_name_and_the_order_of_facts_does_not() -> None:
    same = RunIdentity("probe", {"target": "upos", "layers": (0, 1)}, parents={"wt2": "ab12"})
    others = (
        RunIdentity("lens", IDENTITY.facts, IDENTITY.parents),
        RunIdentity("probe", {**IDENTITY.facts, "target": "xpos"}, IDENTITY.parents),
        RunIdentity("probe", IDENTITY.facts, {"wt2": "cd34"}),
    )
    assert len(IDENTITY.digest(12)) == 12 and same.digest(12) == IDENTITY.digest(12)
    assert IDENTITY.digest(12) not in [x.digest(12) for x in others]
