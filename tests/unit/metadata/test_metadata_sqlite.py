"""Records: an ordered map that is durable, whatever implementation keeps it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipline.errors import ConfigError
from shipline.metadata import Key, Records, SqliteRecords, encode, walk

_PARTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4)
_KEYS = st.lists(_PARTS, min_size=1, max_size=3).map(tuple)
_WRITES = st.lists(
    st.dictionaries(_KEYS, st.none() | st.binary(max_size=8), max_size=5), max_size=6
)
Open = Callable[[Path], Records]


@pytest.fixture(params=[SqliteRecords])
def opened(request: pytest.FixtureRequest) -> Open:
    """Every implementation of the protocol."""
    implementation: Open = request.param
    return implementation


@pytest.fixture
def records(opened: Open, tmp_path: Path) -> Iterator[Records]:
    found = opened(tmp_path / "records")
    yield found
    found.close()


def below(model: dict[Key, bytes], prefix: Key) -> list[tuple[Key, bytes]]:
    start = encode((*prefix, ""))
    found = [key for key in model if encode(key).startswith(start) and encode(key) != start]
    return [(key[len(prefix) :], model[key]) for key in sorted(found, key=encode)]


@settings(max_examples=40, deadline=None)
@given(writes=_WRITES, prefix=_KEYS)
def test_it_is_an_ordered_map(
    tmp_path_factory: pytest.TempPathFactory, writes: list[dict[Key, bytes | None]], prefix: Key
) -> None:
    records = SqliteRecords(tmp_path_factory.mktemp("map") / "records")
    model: dict[Key, bytes] = {}
    for write in writes:
        records.write(write)
        for key, value in write.items():
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
    assert {key: records.get(key) for key in model} == model
    assert records.scan(prefix) == below(model, prefix)
    for key in model:
        assert records.scan(key[:1]) == below(model, key[:1])
    records.close()


def test_pages_have_no_gap_and_no_overlap(records: Records) -> None:
    names = [f"{number:04}" for number in range(2500)]
    records.write({("tag", "a", name): name.encode() for name in names})
    records.write({("tag", "a-b", "x"): b"", ("tag", "a"): b""})
    assert [key for key, _ in walk(records, ("tag", "a"))] == [(name,) for name in names]
    page = records.scan(("tag", "a"), after=("0009",), limit=2)
    assert [key for key, _ in page] == [("0010",), ("0011",)]


def test_what_was_written_survives_another_opening(opened: Open, tmp_path: Path) -> None:
    first = opened(tmp_path / "records")
    first.write({("a",): b"1", ("b",): b"2"})
    first.write({("a",): None})
    first.close()
    second = opened(tmp_path / "records")
    assert (second.get(("a",)), second.get(("b",))) == (None, b"2")
    second.close()


def test_a_part_with_nul_is_refused(records: Records) -> None:
    with pytest.raises(ValueError, match="NUL"):
        records.get(("a\0b",))


def test_a_write_is_all_or_nothing(records: Records) -> None:
    with pytest.raises(ValueError, match="NUL"):
        records.write({("a",): b"1", ("b\0",): b"2"})
    assert records.get(("a",)) is None


def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "records") as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="layout 99"):
        SqliteRecords(tmp_path / "records")


def test_commits_reach_the_disk(records: Records) -> None:
    assert isinstance(records, SqliteRecords)
    (level,) = records._writer.execute("PRAGMA synchronous").fetchone()
    (journal,) = records._writer.execute("PRAGMA journal_mode").fetchone()
    assert (level, journal) == (2, "wal")
