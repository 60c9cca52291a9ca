"""What is kept of a row's other columns is JSON that any parser reads, and nothing of it is lost on the way."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from capture.data.plain import plain


def strictly(value: object) -> Any:
    """What a parser makes of it that knows JSON and nothing more."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(json.dumps(plain(value), allow_nan=False), parse_constant=refuse)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        ({"a": [1.5, float("inf"), {"b": -float("inf")}]}, {"a": [1.5, None, {"b": None}]}),
        (123456789012345678901234567890, 123456789012345678901234567890),
        (True, True),
        ("\0 \x1f \N{PILE OF POO}", "\0 \x1f \N{PILE OF POO}"),
        (b"text, said to be bytes", "text, said to be bytes"),
        (b"\xff\x00", "/wA="),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.datetime(2024, 2, 29, 1, 2, 3, 4, datetime.UTC), "2024-02-29T01:02:03.000004+00:00"),
        (datetime.time(1, 2), "01:02:00"),
        (datetime.timedelta(days=1, seconds=1), "1 day, 0:00:01"),
        (pd.Timestamp(1), "1970-01-01T00:00:00.000000001"),
        (decimal.Decimal("1.50"), "1.50"),
        (uuid.UUID(int=0), "00000000-0000-0000-0000-000000000000"),
        ({1: "a", None: "b", datetime.date(2024, 1, 1): "c"}, {"1": "a", "null": "b", "2024-01-01": "c"}),
        ([("k", 1), ("l", None)], {"k": 1, "l": None}),
        ([(1, b"a"), (2, b"b")], {"1": "a", "2": "b"}),
        ([("k", 1), ("k", 2)], [["k", 1], ["k", 2]]),
        ((1, 2), [1, 2]),
        ([], []),
    ],
)
def test_every_value_is_the_nearest_that_json_has(value: object, expected: object) -> None:
    assert strictly(value) == expected


def test_every_type_of_arrow_has_its_value() -> None:
    columns = {
        "map": pa.array([[("a", [1.0, float("nan")])]], pa.map_(pa.string(), pa.list_(pa.float64()))),
        "struct": pa.array([{"at": datetime.date(2024, 1, 1), "of": [{"x": b"\xff"}]}]),
        "dictionary": pa.array(["one"]).dictionary_encode(),
        "time": pa.array([1], pa.time64("us")),
        "duration": pa.array([1], pa.duration("s")),
        "interval": pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
        "decimal": pa.array([decimal.Decimal("1e10")], pa.decimal256(40, 2)),
        "half": pa.array([1.5], pa.float16()),
        "null": pa.nulls(1),
    }
    assert strictly(pa.table(columns).to_pylist()[0]) == {
        "map": {"a": [1.0, None]},
        "struct": {"at": "2024-01-01", "of": [{"x": "/w=="}]},
        "dictionary": "one",
        "time": "00:00:00.000001",
        "duration": "0:00:01",
        "interval": [1, 2, 3],
        "decimal": "10000000000.00",
        "half": 1.5,
        "null": None,
    }


def test_what_is_nested_deeper_than_parsers_go_is_refused() -> None:
    value: object = 1
    for _ in range(100):
        value = [value]
    assert strictly(value) == value
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        plain([value])
    for _ in range(100_000):
        value = {"a": value}
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        plain(value)
