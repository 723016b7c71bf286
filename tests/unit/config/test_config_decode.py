"""Decoding: the inverse of encoding, with every error at its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.config import InvalidConfig, encode
from shipline.config.decoding import decode
from shipline.config.document import read_document
from shipline.config.json_schema import schema
from shipline.errors import ConfigError
from shipline.units import Duration


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Inner:
    """One."""

    size: int
    name: str = ""
    span: Duration | None = None


@dataclass(frozen=True, slots=True)
class Flat:
    """Fields that stand in the place of it."""

    flag: bool = False
    share: float = 0.5


@dataclass(frozen=True, slots=True)
class Outer:
    """All shapes."""

    word: str = "w"
    mode: Literal["fast", "slow", 1] = "fast"
    colour: Colour = Colour.RED
    inner: Inner = field(default_factory=lambda: Inner(1))
    many: tuple[Inner, ...] = ()
    mixed: str | tuple[str, ...] | Inner = ()
    by_name: Mapping[str, str | Inner] = field(default_factory=dict)
    maybe: int | None = None
    from_: str = field(default="", metadata={"interpolate": True})
    flat: Flat = field(default_factory=Flat, metadata={"inline": True})

    def __post_init__(self) -> None:
        if self.word == "bad":
            raise ConfigError("word: is bad", hint="take another")
        if self.maybe == 13:
            raise ValueError("no thirteen")


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
keys = st.text("abcxyz-_.0", min_size=1, max_size=6)
inners = st.builds(
    Inner, st.integers(-(10**12), 10**12), words, st.none() | st.integers(1, 10**10).map(Duration)
)
outers = st.builds(
    Outer,
    words.filter(lambda word: word != "bad"),
    st.sampled_from(["fast", "slow", 1]),
    st.sampled_from(Colour),
    inners,
    st.lists(inners, max_size=3).map(tuple),
    words | st.lists(words, max_size=3).map(tuple) | inners,
    st.dictionaries(keys, words | inners, max_size=3),
    st.none() | st.integers(-9, 9),
    words.filter(lambda word: "$" not in word),
    st.builds(Flat, st.booleans(), st.floats(allow_nan=False, allow_infinity=False)),
)


def load(text: str, environ: Mapping[str, str] | None = None) -> Outer:
    return decode(Outer, read_document(text.encode(), "f.yaml"), environ or {})


def problems(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        load(text, environ)
    return [str(problem) for problem in caught.value.problems]


@given(outers, st.booleans())
def test_decoding_is_the_inverse_of_encoding(value: Outer, defaults: bool) -> None:
    text = json.dumps(encode(value, defaults=defaults), ensure_ascii=False)
    assert load(text) == value


@given(outers)
def test_defaults_are_left_out(value: Outer) -> None:
    default, whole = encode(Outer(), defaults=True), encode(value, defaults=True)
    left_out = whole.keys() - encode(value).keys()
    assert left_out == {key for key in whole if whole[key] == default[key]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("wrod: x", "f.yaml:1:1: wrod: unknown key (did you mean word?)"),
        ("by_name: {}", "f.yaml:1:1: by_name: unknown key (did you mean by-name?)"),
        ("inner:\n  name: x\n", "f.yaml:2:3: inner: the key size is missing"),
        ("inner: {size: '1'}", "f.yaml:1:15: inner.size: must be an integer, not '1'"),
        ("flag: yes", "f.yaml:1:7: flag: must be true or false, not 'yes': write true"),
        ("colour: rad", "f.yaml:1:9: colour: 'rad' is not one of red, blue (did you mean red?)"),
        ("many: {}", "f.yaml:1:7: many: must be a list, not a mapping"),
        ("many:\n- size: x\n", "f.yaml:2:9: many[0].size: must be an integer, not 'x'"),
        ("by-name: {a: [1]}", "f.yaml:1:14: by-name.a: must be a string or a mapping, not a list"),
        ("word:", "f.yaml:1:6: word: must be a string, not empty"),
        ("inner: {size: 1, span: 5}", "f.yaml:1:24: inner.span: '5' is not a duration"),
        ("word: bad", "f.yaml:1:7: word: is bad (take another)"),
        ("\nmaybe: 13", "f.yaml:2:1: no thirteen"),
        ("word: a\nword: b", "f.yaml:2:1: 'word' is a duplicate of line 1"),
        ("- a", "f.yaml:1:1: must be a mapping, not a list"),
        ("word: !!python/object:os.system x", "f.yaml:1:7: the tag tag:yaml.org,2002:python"),
        ("word: [", "f.yaml:1:8: "),
        ("a: *b", "f.yaml:1:4: the alias *b has no anchor above"),
        ("x-a: &b [*b]", "f.yaml:1:10: the alias *b refers to its own parent"),
        ("word: a\n---\nword: b", "f.yaml:2:1: a file has only one document"),
        ("from: ${NO}", "f.yaml:1:7: from: ${NO}: the variable is not set"),
        ("from: ${MY_TOKEN}", "f.yaml:1:7: from: ${MY_TOKEN} looks like a secret"),
    ],
)
def test_every_error_has_its_place(text: str, expected: str) -> None:
    found = problems(text, {"MY_TOKEN": "hunter2"})
    assert len(found) == 1
    assert found[0].startswith(expected)
    assert "hunter2" not in found[0]


def test_all_errors_are_told_at_once_in_their_order() -> None:
    text = "word: []\ninner: {size: x}\nflag: on\ninner: {size: 1}\nnope: 1\n"
    assert [line.split(":")[1] for line in problems(text)] == ["1", "2", "3", "4", "5"]


def test_a_text_keeps_its_digits() -> None:
    assert load("word: 1.20").word == "1.20"
    assert load("word: true").word == "true"
    assert load("word: 0o17").word == "0o17"


def test_anchors_and_merges_and_own_keys() -> None:
    found = load("x-base: &b {size: 3, name: n}\nmany:\n- *b\n- {<<: *b, name: m}\n")
    assert found.many == (Inner(3, "n"), Inner(3, "m"))


def test_variables_are_replaced_only_where_a_field_says_so() -> None:
    text = "word: ${A}\nfrom: ${A}-${B:-none}-$$x-${C:-}\n"
    found = load(text, {"A": "a"})
    assert (found.word, found.from_) == ("${A}", "a-none-$x-")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100,
        "a: &a [1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"x-{n}: &a [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n" for n in range(12)),
        "word: " + "x" * (600 << 10),
        "\x00",
        "word: \xff",
        "maybe: " + "9" * 5000,
        "{a: b: c}",
        "%YAML 9.9\n---\n%",
        "? [a]\n: b",
    ],
)
def test_hostile_files_are_refused_quickly(text: str) -> None:
    with pytest.raises(ConfigError):
        decode(Outer, read_document(text.encode("latin-1"), "f.yaml"), {})


@given(st.text(max_size=60))
def test_no_text_breaks_the_decoder(text: str) -> None:
    try:
        load(text)
    except InvalidConfig as invalid:
        assert all(problem.mark.line >= 1 for problem in invalid.problems)


def test_schema_says_what_the_decoder_does() -> None:
    found: dict[str, Any] = schema(Outer, title="t")
    assert found["properties"]["from"] == {"type": ["string", "number", "boolean"]}
    assert found["properties"]["flag"]["type"] == "boolean"
    assert found["$defs"]["Inner"]["required"] == ["size"]
    assert found["$defs"]["Inner"]["additionalProperties"] is False
