"""The journal: every change of a tag has an entry, in order, and readers miss none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from regions import Region, entries, image, index, statement
from shipline.content import MemoryStore
from shipline.server import Storage
from shipline.server.gc import GcOptions, collect
from shipline.server.journal import snapshot
from shipline.units import Duration


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Region]:
    made = Region(tmp_path / "data")
    yield made
    made.close()


def test_every_way_to_change_a_tag_has_an_entry(region: Region) -> None:
    store = MemoryStore()
    one, two = image(store, "one"), image(store, "two")
    region.push("team/app", "v1", one, store)
    region.push("team/app", "v1", two, store)
    region.open("team/app").delete("v1")
    region.push("team/app", "v2", two, store)
    region.open("team/app").delete(str(two.digest))
    assert list(entries(region)) == [
        ("tag", "team/app", "v1"),
        ("tag", "team/app", "v1"),
        ("untag", "team/app", "v1"),
        ("tag", "team/app", "v2"),
        ("delete", "team/app", str(two.digest)),
        ("untag", "team/app", "v2"),
    ]


def test_an_entry_says_what_the_tag_points_to(region: Region) -> None:
    store = MemoryStore()
    root = index(store, "one")
    region.push("team/app", "v1", root, store)
    page = region.app.storage.journal.after(_origin(region))
    assert page is not None
    (entry,) = page.entries
    assert (entry.digest, entry.media_type, entry.size) == (
        str(root.digest),
        root.media_type,
        root.size,
    )
    assert entry.at == region.app.now


def test_referrers_have_entries_and_other_manifests_without_a_tag_none(region: Region) -> None:
    store = MemoryStore()
    root = index(store, "one")
    region.push("team/app", "v1", root, store)
    about = statement(store, root, "signed")
    region.attach("team/app", about, store)
    assert list(entries(region))[1:] == [("refer", "team/app", str(about.digest))]


def test_garbage_collection_writes_entries(region: Region) -> None:
    store = MemoryStore()
    one, two = image(store, "one"), image(store, "two")
    region.push("team/app", "v1", one, store)
    region.push("team/app", "v1", two, store)
    region.app.storage.promises.assume_none()
    region.app.now += 7200
    options = GcOptions(untagged=True, grace=Duration(1000))
    collect(region.app.storage, options)
    assert ("delete", "team/app", str(one.digest)) in list(entries(region))


def test_a_node_without_a_role_writes_none(tmp_path: Path) -> None:
    region = Region(tmp_path / "data")
    region.app.storage.journal.disable()
    store = MemoryStore()
    region.push("team/app", "v1", image(store, "one"), store)
    assert list(entries(region)) == []
    region.close()


def test_a_program_that_opens_the_directory_later_goes_on(tmp_path: Path) -> None:
    region, store = Region(tmp_path / "data"), MemoryStore()
    region.push("team/app", "v1", image(store, "one"), store)
    head = region.app.storage.journal.head()
    region.close()
    again = Region(tmp_path / "data")
    again.push("team/app", "v2", image(store, "two"), store)
    page = again.app.storage.journal.after(head)
    assert page is not None and [entry.tag for entry in page.entries] == ["v2"]
    again.close()


def test_a_cursor_of_another_history_is_cut(tmp_path: Path) -> None:
    """A directory restored from a backup wrote other entries with the same numbers."""
    region, store = Region(tmp_path / "data"), MemoryStore()
    region.push("team/app", "v1", image(store, "one"), store)
    journal = region.app.storage.journal
    head = journal.head()
    for cursor in ("", "7-ffffffff", "1-ffffffff", "0-0", "x", "-1-a", "1" * 30):
        assert journal.after(cursor) is None, cursor
    assert journal.after(head) is not None
    journal.disable()
    journal.enable()
    assert journal.after(head) is None
    region.close()


def test_a_truncated_journal_is_cut_for_those_who_were_behind(region: Region) -> None:
    store, journal = MemoryStore(), region.app.storage.journal
    start = journal.head()
    for number in range(10):
        region.push("team/app", f"v{number}", image(store, str(number)), store)
    middle = json.loads(region.app.storage.records.scan(("journal",), limit=7)[-1][1])
    assert journal.trim(3, 1e9) == 7
    assert journal.after(start) is None
    assert journal.after(f"{middle['seq']}-{middle['run']}") is None
    page = journal.after(f"8-{middle['run']}")
    assert page is not None and [entry.tag for entry in page.entries] == ["v8", "v9"]


def test_old_entries_go_and_the_newest_stays(region: Region) -> None:
    store, journal = MemoryStore(), region.app.storage.journal
    for number in range(3):
        region.push("team/app", f"v{number}", image(store, str(number)), store)
    head = journal.head()
    region.app.now += 1000
    assert journal.trim(100, 10.0) == 2
    page = journal.after(head)
    assert page is not None and page.entries == ()


def test_an_entry_is_shown_once_all_before_it_are_written(region: Region) -> None:
    """A reader goes on after the newest that it saw: what is written late must not be behind it."""
    journal, records = region.app.storage.journal, region.app.storage.records
    start = journal.head()
    with journal.writing({("tag", "a", "slow"): b'{"digest":"sha256:00"}'}) as slow:
        with journal.writing({("tag", "a", "quick"): b'{"digest":"sha256:00"}'}) as quick:
            records.write(quick)
        page = journal.after(start)
        assert page is not None and page.entries == ()
        records.write(slow)
    page = journal.after(start)
    assert page is not None and [entry.tag for entry in page.entries] == ["slow", "quick"]


def test_a_failed_change_leaves_a_gap_that_hides_nothing(region: Region) -> None:
    journal, store = region.app.storage.journal, MemoryStore()
    start = journal.head()
    with pytest.raises(OSError), journal.writing({("tag", "a", "x"): b'{"digest":"d"}'}):
        raise OSError
    region.push("team/app", "v1", image(store, "one"), store)
    page = journal.after(start)
    assert page is not None and [entry.tag for entry in page.entries] == ["v1"]


def test_readers_beside_many_writers_see_every_entry_once_and_in_order(region: Region) -> None:
    store, journal = MemoryStore(), region.app.storage.journal
    cursor = journal.head()
    seen: list[tuple[int, str]] = []
    roots = [image(store, str(number)) for number in range(40)]

    def push(part: int) -> None:
        for number in range(part, 40, 4):
            region.push(f"team/{part}", f"v{number}", roots[number], store)

    threads = [threading.Thread(target=push, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    while len(seen) < 40:
        page = journal.after(cursor, limit=3)
        assert page is not None
        seen += [(entry.seq, entry.tag) for entry in page.entries]
        cursor = page.cursor
    for thread in threads:
        thread.join()
    assert seen == sorted(seen)
    assert {tag for _, tag in seen} == {f"v{number}" for number in range(40)}


def test_a_snapshot_goes_on_where_a_page_ended(region: Region) -> None:
    store = MemoryStore()
    for name in ("a", "b/c", "b"):
        for tag in ("v1", "v2"):
            root = index(store, f"{name}{tag}")
            region.push(name, tag, root, store)
            region.attach(name, statement(store, root, f"about {name}{tag}"), store)
    whole = list(snapshot(region.app.storage.records))
    assert len(whole) == 12
    for position, (key, _) in enumerate(whole):
        rest = list(snapshot(region.app.storage.records, key))
        assert rest == whole[position + 1 :]


def test_the_number_goes_on_after_all_entries_but_the_newest_were_deleted(tmp_path: Path) -> None:
    region, store = Region(tmp_path / "data"), MemoryStore()
    for number in range(5):
        region.push("team/app", f"v{number}", image(store, str(number)), store)
    region.app.storage.journal.trim(1, 1e9)
    region.close()
    storage = Storage(tmp_path / "data")
    assert storage.journal.last() == 5
    storage.close()


def _origin(region: Region) -> str:
    state = json.loads(region.app.storage.records.get(("journaling",)) or b"{}")
    return f"0-{state['id']}"
