"""Reports come from outside: whatever the bytes, there is a report or a ReportError."""

from __future__ import annotations

import json
from contextlib import suppress
from io import BytesIO
from typing import Any

import pytest
from gate_samples import ALL, COVERAGE_PY, TRIVY, parsed
from hypothesis import example, given
from hypothesis import strategies as st

from shipline.gates.reports import REPORT_FORMATS, ReportError, parse_report
from shipline.gates.reports.streams import JsonReader

LAUGHS = b"""<?xml version="1.0"?><!DOCTYPE testsuite [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;">]><testsuite><testcase name="&c;"/></testsuite>"""
EXTERNAL = b"""<?xml version="1.0"?><!DOCTYPE testsuite [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<testsuite><testcase name="&x;"/></testsuite>"""
PARAMETER = b"""<?xml version="1.0"?><!DOCTYPE testsuite [<!ENTITY % p SYSTEM "http://[::1]:1/">%p;]>
<testsuite/>"""


def refused(content: bytes, format: str = "") -> str:
    with pytest.raises(ReportError) as caught:
        parse_report(BytesIO(content), format)
    return caught.value.message


@pytest.mark.parametrize("bomb", [LAUGHS, EXTERNAL, PARAMETER])
def test_entities_are_refused(bomb: bytes) -> None:
    assert "entity" in refused(bomb)


def test_an_undeclared_external_entity_is_never_read() -> None:
    head = b'<!DOCTYPE testsuite SYSTEM "file:///etc/passwd">'
    assert parsed(head + b'<testsuite><testcase name="a"/></testsuite>').format == "junit"


@pytest.mark.parametrize("format", REPORT_FORMATS)
def test_empty_is_an_error(format: str) -> None:
    for content in (b"", b"  \n", b"\xef\xbb\xbf"):
        refused(content)
        refused(content, format)


@pytest.mark.parametrize("format", REPORT_FORMATS)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_report_that_is_cut_off_is_an_error(format: str, part: float) -> None:
    content = ALL[format]
    if format in ("lcov", "go"):
        content = content.rstrip()[: int(len(content) * part)].rsplit(b"\n", 1)[0] + b"\nSF:x"
    else:
        content = content[: int(len(content) * part)]
    refused(content, format)


@pytest.mark.parametrize("format", sorted({*REPORT_FORMATS} - {"lcov", "go", "nuclei"}))
def test_no_beginning_of_a_report_says_anything_else(format: str) -> None:
    """Text formats have no end mark: only a record in pieces tells that it is cut off."""
    content = ALL[format]
    whole = parse_report(BytesIO(content), format)
    for size in range(1, len(content)):
        with suppress(ReportError):
            assert parse_report(BytesIO(content[:size]), format).content == whole.content


@pytest.mark.parametrize("format", ["sarif", "trivy", "pip-audit", "cyclonedx"])
def test_something_behind_the_end_is_an_error(format: str) -> None:
    refused(ALL[format] + b"{}", format)
    refused(ALL[format] + b"}", format)


@pytest.mark.parametrize("deep", ["[" * 200_000, '{"a":' * 200_000, '{"runs":' + "[" * 200_000])
def test_deep_json_is_an_error(deep: str) -> None:
    for format in ("", "sarif", "trivy", "pip-audit", "openvex", "istanbul"):
        refused(deep.encode(), format)


def test_deep_xml_is_an_error() -> None:
    assert "nested deeper" in refused(b"<testsuite>" * 100_000)


def test_an_endless_tag_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shipline.gates.reports.streams._TOKEN_LIMIT", 1 << 20)
    endless = b'<testsuite name="' + b"a" * (2 << 20)
    assert "a tag of more than 1 MiB" in refused(endless, "junit")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1", "0.5", '"3"'])
def test_what_is_no_count_is_an_error(number: str) -> None:
    text = json.dumps(COVERAGE_PY).replace('"covered_branches": 1', f'"covered_branches": {number}')
    refused(text.encode())


@pytest.mark.parametrize("number", ["1_0", "\u0661", "\uff11", "infinity", "1" * 50])
def test_attributes_have_the_numbers_that_all_programs_read(number: str) -> None:
    line = f'<line number="1" hits="{number}"/>'
    assert "not a non-negative number" in refused(
        '<coverage><packages><package><classes><class filename="a"><lines>'
        f"{line}</lines></class></classes></package></packages></coverage>".encode(),
        "cobertura",
    )


@pytest.mark.parametrize(
    ("format", "beginning"),
    [
        ("coverage.py", '"totals": {'),
        ("trivy", '"Severity": "'),
        ("istanbul-summary", '"lines": {'),
    ],
)
def test_a_key_that_stands_twice_is_an_error(format: str, beginning: str) -> None:
    """Programs do not agree on which of the two counts."""
    text = ALL[format].decode()
    assert beginning in text
    key = beginning.partition(":")[0]
    twice = text.replace(beginning, f"{key}: {{}}, {beginning}", 1)
    assert f"the key {key.replace(chr(34), chr(39))} twice" in refused(twice.encode(), format)


def test_a_line_that_ran_and_is_missing_is_an_error() -> None:
    document = json.loads(json.dumps(COVERAGE_PY))
    file = document["files"]["app/a.py"]
    file["missing_lines"] = [*file["missing_lines"], file["executed_lines"][0]]
    assert "both executed and missing" in refused(json.dumps(document).encode())


@pytest.mark.parametrize("line", [-1, 10**9, 10**30, 1.5, True, "7", None, [1]])
def test_what_is_no_line_number_is_an_error(line: object) -> None:
    document = json.loads(json.dumps(COVERAGE_PY))
    document["files"]["app/a.py"]["missing_lines"] = [line]
    refused(json.dumps(document).encode())


@pytest.mark.parametrize("time", ["-1", "NaN", "inf", "x", "1e400"])
def test_negative_times_are_an_error(time: str) -> None:
    refused(f'<testsuite><testcase name="a" time="{time}"/></testsuite>'.encode())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(encoding: str) -> None:
    text = json.dumps(TRIVY)
    assert parsed(text.encode(encoding)).content == parsed(TRIVY).content


@pytest.mark.parametrize("format", ["sarif", "trivy", "lcov", "go", "junit"])
def test_wrong_bytes_are_an_error(format: str) -> None:
    content = ALL[format]
    refused(content.replace(b"a", b"\xff\xfe\xff", 3), format)


@given(st.binary(max_size=300), st.sampled_from(("", *REPORT_FORMATS)))
@example(b"{", "")
@example(b'{"a":{', "")
@example(b"[", "")
def test_arbitrary_bytes_give_a_report_or_a_report_error(content: bytes, format: str) -> None:
    with suppress(ReportError):
        parse_report(BytesIO(content), format)


@given(st.sampled_from(REPORT_FORMATS), st.data())
def test_damaged_reports_give_a_report_or_a_report_error(format: str, data: st.DataObject) -> None:
    content = bytearray(ALL[format])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
        content = content or bytearray(b"x")
    for name in ("", format):
        with suppress(ReportError):
            parse_report(BytesIO(bytes(content)), name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip
DOCUMENTS = ("sarif", "eslint", "trivy", "grype", "osv", "npm-audit", "cyclonedx", "spdx", "spdx3",
             "openvex", "pip-audit", "istanbul", "istanbul-summary", "coverage.py")  # fmt: skip


def replaced(value: Any, place: int, other: Any) -> tuple[Any, int]:
    """`value` with its node number `place` exchanged."""
    if place == 0:
        return other, -1
    place -= 1
    if isinstance(value, dict):
        result: dict[str, Any] = {}
        for key, one in value.items():
            result[key], place = replaced(one, place, other) if place >= 0 else (one, place)
        return result, place
    if isinstance(value, list):
        items = []
        for one in value:
            one, place = replaced(one, place, other) if place >= 0 else (one, place)
            items.append(one)
        return items, place
    return value, place


@given(st.sampled_from(DOCUMENTS), st.integers(0, 80), JSON)
def test_fields_of_another_type_give_a_report_or_a_report_error(
    format: str, place: int, other: Any
) -> None:
    document, _ = replaced(json.loads(ALL[format]), place, other)
    with suppress(ReportError):
        parse_report(BytesIO(json.dumps(document).encode()), format)


class Slow:
    """A source that gives a few bytes at a time."""

    def __init__(self, content: bytes, step: int) -> None:
        self._content, self._step, self._at = content, step, 0

    def read(self, size: int = -1) -> bytes:
        data = self._content[self._at : self._at + self._step]
        self._at += len(data)
        return data


def walk(reader: JsonReader, depth: int = 0) -> Any:
    """The value, read by its parts as far as `depth`."""
    if depth < 2 and reader.kind() == "{":
        return {key: walk(reader, depth + 1) for key in reader.members()}
    if depth < 2 and reader.kind() == "[":
        return [walk(reader, depth + 1) for _ in reader.elements()]
    return reader.value()


@given(JSON, st.integers(1, 7), st.sampled_from((None, 1)))
def test_reading_in_pieces_is_reading_at_once(value: Any, step: int, indent: int | None) -> None:
    raw = json.dumps(value, indent=indent, ensure_ascii=False).encode(errors="replace")
    reader = JsonReader(Slow(raw, step))
    assert walk(reader) == json.loads(raw)
    reader.finish()


@given(st.lists(JSON, max_size=4), st.integers(1, 7))
def test_skipping_ends_where_the_value_ends(values: list[Any], step: int) -> None:
    raw = json.dumps([*values, "end"]).encode()
    reader = JsonReader(Slow(raw, step))
    found = [reader.value() if place == len(values) else None for place in reader.elements()]
    assert found[-1] == "end" and len(found) == len(values) + 1
    reader.finish()
