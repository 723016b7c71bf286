"""A generated file knows its state; documents are read back as they were meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from shipline.deliver.ci import CiSection, FileState, Pins, freshness, kind_of
from shipline.deliver.ci.document import Comment, Inline, Noted, headed, render
from shipline.errors import ConfigError

texts = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), max_size=20)
lines = st.lists(texts.map(str.strip), min_size=2, max_size=3).map(
    lambda parts: "x" + "\n".join(parts) + "y\n"
)
keys = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
scalars: st.SearchStrategy[Any] = (
    texts | lines | st.booleans() | st.integers(0, 999) | st.just({}) | st.none()
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.dictionaries(keys, inner, min_size=1, max_size=3)
        | st.lists(inner, min_size=1, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(keys, values, min_size=1, max_size=4))
@example({"a": "A\xa0"})
def test_a_document_is_read_back_as_it_was(document: dict[str, object]) -> None:
    assert YAML(typ="safe", pure=True).load(render(document)) == document


@given(st.lists(texts, min_size=1, max_size=4))
@example([".0", "._", ".inf", ".NaN", ".github/x"])
def test_a_list_on_one_line_is_read_back_as_it_was(items: list[str]) -> None:
    assert YAML(typ="safe", pure=True).load(render({"a": Inline(items)})) == {"a": items}


def test_comments_stand_where_people_put_them() -> None:
    document = {
        Comment("above"): None,
        "a": Noted("b", "beside"),
        Comment(): None,
        "c": [{Comment("inside"): None, "d": 1, "e": [2, "x"]}],
    }
    assert render(document) == (
        "# above\na: b # beside\n\nc:\n  # inside\n  - d: 1\n    e:\n      - 2\n      - x\n"
    )


def test_the_state_of_a_file_tells_who_changed_it() -> None:
    old, new = headed("a: 1\n", "gitlab"), headed("a: 2\n", "gitlab")
    assert freshness(new, new, "f").state is FileState.FRESH
    assert freshness(None, new, "f").state is FileState.MISSING
    assert freshness(old, new, "f").state is FileState.STALE
    assert freshness(old + "b: 3\n", new, "f").state is FileState.EDITED
    assert freshness("a: 2\n", new, "f").state is FileState.FOREIGN
    assert "-a: 1\n+a: 2\n" in freshness(old, new, "f").diff
    assert kind_of(headed("", "github --style buildx")) == "github --style buildx"
    assert kind_of("name: ours\n") is None


def test_a_project_replaces_pins_and_never_by_a_name_that_moves(tmp_path: Path) -> None:
    own = tmp_path / "pins.json"
    own.write_text(json.dumps({"actions/checkout": {"version": "v9", "commit": "a" * 40}}))
    pins = Pins.load(own)
    assert pins.uses("actions/checkout") == f"actions/checkout@{'a' * 40}"
    assert pins.uses("actions/checkout").note == "v9"
    assert pins.table["actions/cache"] == Pins.load().table["actions/cache"]
    for content in (
        '{"actions/checkout": {"version": "v9", "commit": "main"}}',
        '{"actions/checkout": "v9"}',
        "[]",
        "nonsense",
    ):
        own.write_text(content)
        with pytest.raises(ConfigError):
            Pins.load(own)
    with pytest.raises(ConfigError, match="cannot read"):
        Pins.load(tmp_path / "missing.json")


def test_a_section_that_cannot_work_is_refused() -> None:
    cases: tuple[dict[str, Any], ...] = (
        {"timeout_minutes": 0},
        {"key": "a b"},
        {"branches": (), "tags": ()},
        {"oidc_audience": "x"},
    )
    for wrong in cases:
        with pytest.raises(ConfigError):
            CiSection(**wrong)
