"""The published schema and the reference are those of the code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shipline.config import Config, encode, file_schema, loads, reference
from shipline.config.shape import Either, Many, Named, ParsedString, Record, Shape
from shipline.gates.section import DastGate

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


def _records(cls: type, seen: dict[type, None]) -> dict[type, None]:
    """All records of the file."""

    def visit(shape: Shape) -> None:
        if isinstance(shape, Record) and shape.type not in seen:
            _records(shape.type, seen)
        elif isinstance(shape, Many):
            visit(shape.item)
        elif isinstance(shape, Named):
            visit(shape.value)
        elif isinstance(shape, Either):
            for one in shape.options:
                visit(one)

    seen[cls] = None
    for field in Record(cls).fields:
        visit(field.shape)
    return seen


def test_every_default_of_a_parsed_class_can_be_written_into_the_file() -> None:
    for record in _records(Config, {}):
        for field in Record(record).fields:
            if isinstance(field.shape, ParsedString) and not field.required:
                parser: Any = field.shape.type
                assert parser.parse(encode(field.default())) == field.default(), field.key


def test_severities_are_written_as_words() -> None:
    """They are numbers only to be ordered."""
    text = "gates:\n  vulnerabilities: {fail-on: high}\n  dast: {fail-on: low, confidence: high}\n"
    config = loads(text.encode(), "shipline.yaml", {})
    assert config.gates is not None and isinstance(config.gates.dast, DastGate)
    assert (config.gates.dast.fail_on, config.gates.dast.confidence) == (2, 3)
    assert encode(config)["gates"]["vulnerabilities"] == {"fail-on": "high"}
