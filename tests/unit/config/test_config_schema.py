"""The published schema and the reference are those of the code."""

from __future__ import annotations

import json
from pathlib import Path

from shipline.config import file_schema, reference

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "schema" / "shipline.schema.json"
PAGE = ROOT / "docs" / "shipline.yaml.md"


def test_published_schema_is_the_one_of_the_code() -> None:
    hint = "run: shipline config schema > schema/shipline.schema.json"
    assert json.loads(PUBLISHED.read_text()) == file_schema(), hint


def test_published_reference_is_the_one_of_the_code() -> None:
    hint = "run: shipline config reference > docs/shipline.yaml.md"
    assert PAGE.read_text() == reference(), hint


def test_every_key_is_documented() -> None:
    schema = file_schema()
    records = {"": schema, **schema["$defs"]}
    bare = [
        f"{name}.{key}"
        for name, record in records.items()
        for key, field in record["properties"].items()
        if not field.get("description")
    ]
    assert bare == []
