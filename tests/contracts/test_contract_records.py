"""Records: an ordered map that is durable, whatever implementation keeps it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shipline.errors import ConfigError
from shipline.metadata import (
    Key,
    Records,
    RocksRecords,
    SqliteRecords,
    copy_records,
    encode,
    open_records,
    walk,
)

_PARTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4)
_KEYS = st.lists(_PARTS, min_size=1, max_size=3).map(tuple)
_WRITES = st.lists(
    st.dictionaries(_KEYS, st.none() | st.binary(max_size=8), max_size=5), max_size=6
)
Open = Callable[[Path], Records]
_COUNTER = ("count", "x")


@pytest.fixture(params=[SqliteRecords, RocksRecords])
def opened(request: pytest.FixtureRequest) -> Open:
    """Every implementation of the protocol."""
    implementation: Open = request.param
    if implementation is RocksRecords:
        pytest.importorskip("rocksdict")
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


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(writes=_WRITES, prefix=_KEYS)
def test_it_is_an_ordered_map(
    opened: Open,
    tmp_path_factory: pytest.TempPathFactory,
    writes: list[dict[Key, bytes | None]],
    prefix: Key,
) -> None:
    records = opened(tmp_path_factory.mktemp("map") / "records")
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


def test_the_empty_prefix_is_everything(records: Records) -> None:
    written: dict[Key, bytes] = {("b",): b"1", ("a", "c"): b"2", ("é", ""): b"3"}
    records.write(written)
    assert records.scan(()) == sorted(written.items(), key=lambda item: encode(item[0]))
    assert records.scan((), after=("a", "c"), limit=1) == [(("b",), b"1")]


def test_counters_lose_no_addition(records: Records) -> None:
    def count() -> None:
        for number in range(50):
            records.write({("by", str(number)): b""}, add={_COUNTER: 2, ("other",): -1})

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert records.get(_COUNTER) == b"800"
    assert records.get(("other",)) == b"-400"


def test_a_counter_that_is_deleted_begins_at_zero(records: Records) -> None:
    records.write({}, add={_COUNTER: 5})
    records.write({_COUNTER: None})
    assert records.get(_COUNTER) is None
    records.write({}, add={_COUNTER: 1})
    assert records.get(_COUNTER) == b"1"


def test_each_of_many_writers_finds_its_write_when_it_returns(records: Records) -> None:
    missed: list[str] = []

    def write(name: str) -> None:
        for number in range(40):
            key = (name, str(number))
            records.write({key: name.encode()}, durable=bool(number % 2))
            if records.get(key) != name.encode():
                missed.append(name)

    threads = [threading.Thread(target=write, args=(f"w{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missed == []
    assert len(list(walk(records, ()))) == 8 * 40


def test_copy_is_equal(opened: Open, records: Records, tmp_path: Path) -> None:
    records.write({("k", f"{number:05}"): b"%d" % number for number in range(12_000)})
    other = opened(tmp_path / "copy")
    assert copy_records(records, other) == 12_000
    assert list(walk(other, ())) == list(walk(records, ()))
    other.close()


def test_an_unknown_driver_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'lmdb'") as refused:
        open_records(tmp_path / "records", "lmdb")
    assert "sqlite, rocksdb" in refused.value.hint


def test_one_process_opens_rocksdb(tmp_path: Path) -> None:
    pytest.importorskip("rocksdict")
    first = RocksRecords(tmp_path / "records")
    with pytest.raises(ConfigError, match="another process"):
        RocksRecords(tmp_path / "records")
    first.close()


def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    """SQLite answers "database is locked" to some of those that switch its journal together."""
    for number in range(30):
        path = tmp_path / f"{number}.db"
        with ThreadPoolExecutor(4) as pool:
            ready = threading.Barrier(4)

            def begin(name: str, path: Path = path, ready: threading.Barrier = ready) -> None:
                ready.wait()
                records = SqliteRecords(path)
                records.write({(name,): b""})
                records.close()

            list(pool.map(begin, "abcd"))
        records = SqliteRecords(path)
        assert [key for key, _ in walk(records, ())] == [("a",), ("b",), ("c",), ("d",)]
        records.close()


def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "records") as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="layout 99"):
        SqliteRecords(tmp_path / "records")


def test_commits_reach_the_disk(tmp_path: Path) -> None:
    records = SqliteRecords(tmp_path / "records")
    records.write({("a",): b""}, durable=False)
    records.write({("b",): b""})
    (level,) = records._writer.execute("PRAGMA synchronous").fetchone()
    (journal,) = records._writer.execute("PRAGMA journal_mode").fetchone()
    assert (level, journal) == (2, "wal")
    records.close()
