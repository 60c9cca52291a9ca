"""The types of fields that several files of JSON have: bounded numbers, and names that a path or SQL can hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=0, le=1 << 53)]
Size = Annotated[int, Field(ge=0, le=1 << 24)]
"""A model's number of layers or heads, or a width."""
Layer = Annotated[int, Field(ge=0, lt=1 << 16)]
Site = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$", max_length=80)]
TensorName = Annotated[str, Field(pattern=r"^[a-z][A-Za-z0-9_.]*$", max_length=100)]
Dtype = Annotated[str, Field(pattern="^(F16|BF16|F32|I8)$")]
