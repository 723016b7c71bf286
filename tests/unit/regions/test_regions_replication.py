"""A replication between two nodes in one process: order, filters, and what breaks off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regions import (
    AMD,
    ARM,
    Region,
    check_graph,
    drain,
    entries,
    image,
    index,
    replication,
    statement,
)
from shipline.content import MemoryStore, Reader
from shipline.errors import NotFound, RegistryError
from shipline.globs import Glob
from shipline.images import Meter
from shipline.oci import Descriptor, Index, parse_manifest
from shipline.regions.replication import JournalReplication
from shipline.server.fsck import CheckSummary, check
from shipline.server.manifests import Manifests
from shipline.server.repository import StoredRepository


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Region]:
    region = Region(tmp_path / "primary")
    yield region
    region.close()


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Region]:
    region = Region(tmp_path / "edge")
    yield region
    region.close()


def test_the_first_run_copies_everything_and_the_next_what_changed(
    primary: Region, edge: Region
) -> None:
    store = MemoryStore()
    primary.push("team/app", "v1", index(store, "one"), store)
    one = replication(primary, edge)
    drain(one)
    assert edge.tags() == primary.tags()
    primary.push("team/app", "v2", index(store, "two"), store)
    primary.push("other", "v1", image(store, "three"), store)
    drain(one)
    assert edge.tags() == primary.tags()
    edge.check_whole()
    assert one.state().entries == 0
    assert one.state().seconds == 0


def test_statements_arrive_with_their_image_and_later(primary: Region, edge: Region) -> None:
    store, one = MemoryStore(), replication(primary, edge)
    root = index(store, "one")
    early, late = statement(store, root, "early"), statement(store, root, "late")
    primary.push("team/app", "v1", root, store)
    primary.attach("team/app", early, store)
    drain(one)
    primary.attach("team/app", late, store)
    drain(one)
    found = edge.open("team/app").referrers(root)
    assert {str(each.digest) for each in found} == {str(early.digest), str(late.digest)}
    for each in found:
        check_graph(edge.open("team/app"), each)


def test_statements_are_there_before_the_tag(primary: Region, edge: Region) -> None:
    store, one = MemoryStore(), replication(primary, edge)
    root = index(store, "one")
    primary.push("team/app", "v1", root, store)
    primary.attach("team/app", statement(store, root, "signed"), store)
    primary.push("team/app", f"sha256-{root.digest.hex}.sig", image(store, "signature"), store)
    drain(one)
    written = [f"{operation} {what[:7]}" for operation, _, what in entries(edge)]
    assert written == ["refer sha256:", "tag sha256-", "tag v1"]


def test_a_tag_that_moved_often_is_copied_once(primary: Region, edge: Region) -> None:
    store, one = MemoryStore(), replication(primary, edge)
    drain(one)
    for number in range(5):
        primary.push("team/app", "latest", index(store, str(number)), store)
    one.poll(0)
    assert one.state().entries == 1
    drain(one)
    assert len(edge.app.node.manifests.list_manifests("team/app")) == 3
    assert edge.tags() == primary.tags()


def test_deletions_follow_only_when_asked(primary: Region, edge: Region, tmp_path: Path) -> None:
    other, store = Region(tmp_path / "other"), MemoryStore()
    keeps, follows = replication(primary, edge), replication(primary, other, deletes=True)
    first = image(store, "one")
    primary.push("team/app", "v1", first, store)
    primary.push("team/app", "v2", image(store, "two"), store)
    for one in (keeps, follows):
        drain(one)
    primary.open("team/app").delete("v2")
    primary.open("team/app").delete(str(first.digest))
    for one in (keeps, follows):
        drain(one)
    assert {tag for _, tag in edge.tags()} == {"v1", "v2"}
    assert other.tags() == {}
    other.close()


def test_only_what_the_filters_name_is_copied(primary: Region, edge: Region) -> None:
    store = MemoryStore()
    one = replication(primary, edge, repositories=(Glob("team/**"),), tags=(Glob("v*"),))
    root = image(store, "left out")
    for name, tag in (("team/app", "v1"), ("team/app", "edge"), ("other", "v1")):
        primary.push(name, tag, image(store, name + tag), store)
    primary.push("team/app", "nightly", root, store)
    primary.attach("team/app", statement(store, root, "about what was left out"), store)
    drain(one)
    assert set(edge.tags()) == {("team/app", "v1")}
    assert not edge.open("team/app").referrers(root)
    assert one.state().entries == 0


def test_other_filters_compare_everything_again(primary: Region, edge: Region) -> None:
    store = MemoryStore()
    primary.push("team/app", "v1", image(store, "one"), store)
    primary.push("team/app", "edge", image(store, "two"), store)
    drain(replication(primary, edge, tags=(Glob("v*"),)))
    drain(replication(primary, edge))
    assert edge.tags() == primary.tags()


def test_platforms_make_an_index_of_their_images(primary: Region, edge: Region) -> None:
    store, one = MemoryStore(), replication(primary, edge, platforms=("linux/arm64",))
    root = index(store, "one", AMD, ARM)
    primary.push("team/app", "v1", root, store)
    drain(one)
    repository = edge.open("team/app")
    copied = repository.resolve("v1")
    with repository.fetch(copied) as reader:
        parsed = parse_manifest(reader.read(), copied.media_type)
    assert isinstance(parsed, Index)
    assert parsed.platforms == (ARM,)
    edge.check_whole()
    before = edge.app.storage.journal.last()
    drain(one)
    assert edge.app.storage.journal.last() == before


def test_a_cut_journal_is_made_up_for(primary: Region, edge: Region) -> None:
    store, one = MemoryStore(), replication(primary, edge, deletes=True)
    for number in range(6):
        primary.push("team/app", f"v{number}", image(store, str(number)), store)
    drain(one)
    for number in range(6):
        primary.push("team/app", f"w{number}", image(store, f"w{number}"), store)
    primary.open("team/app").delete("v3")
    primary.app.storage.journal.trim(1, 1e9)
    drain(one)
    assert edge.tags() == primary.tags()


def test_a_tag_that_went_while_the_journal_was_cut_does_not_arrive_later(
    primary: Region, edge: Region
) -> None:
    store, one = MemoryStore(), replication(primary, edge, deletes=True)
    root = index(store, "one")
    primary.push("team/app", "v1", root, store)
    one.poll(0)
    primary.push("team/app", "v2", root, store)
    primary.app.storage.journal.trim(1, 1e9)
    primary.open("team/app").delete("v1")
    drain(one)
    assert edge.tags() == primary.tags()


def test_a_statement_that_went_while_the_journal_was_cut_goes(
    primary: Region, edge: Region
) -> None:
    store, one = MemoryStore(), replication(primary, edge, deletes=True)
    root = image(store, "one")
    kept, gone = (statement(store, root, seed) for seed in ("kept", "gone"))
    primary.push("team/app", "v1", root, store)
    primary.attach("team/app", kept, store)
    primary.attach("team/app", gone, store)
    drain(one)
    primary.open("team/app").delete(str(gone.digest))
    primary.push("team/app", "v2", root, store)
    primary.app.storage.journal.trim(1, 1e9)
    drain(one)
    assert [found.digest for found in edge.open("team/app").referrers(root)] == [kept.digest]


def _once(
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    method: str,
    when: object,
    then: Callable[[], object],
) -> None:
    """Right before `method` is called with `when`, do `then`, once."""
    done, real = list[bool](), getattr(owner, method)

    def racing(self: object, *arguments: object, **options: object) -> object:
        if when in arguments and not done:
            done.append(True)
            then()
        return real(self, *arguments, **options)

    monkeypatch.setattr(owner, method, racing)


def _apply_beside(one: JournalReplication) -> None:
    """What another worker of the replication does."""
    one.poll(0)
    one.apply_one()


def _settle(one: JournalReplication) -> None:
    drain(one)
    while one.state().entries:
        assert one.apply_one(5)


def test_a_statement_that_goes_while_its_image_is_copied_goes(
    primary: Region, edge: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, one = MemoryStore(), replication(primary, edge, deletes=True)
    drain(one)
    root = image(store, "one")
    about = statement(store, root, "about")
    primary.attach("team/app", about, store)
    primary.push("team/app", "v1", root, store)
    drain(one)
    edge.open("team/app").delete(str(about.digest))
    primary.push("team/app", "v2", root, store)

    def meanwhile() -> None:
        primary.open("team/app").delete(str(about.digest))
        _apply_beside(one)

    _once(monkeypatch, Manifests, "put", about.digest, meanwhile)
    _settle(one)
    assert edge.tags() == primary.tags()
    assert edge.open("team/app").referrers(root) == ()


def test_a_newer_statement_is_not_replaced_by_the_copy_of_its_image(
    primary: Region, edge: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, one = MemoryStore(), replication(primary, edge)
    drain(one)
    root, old, new = (image(store, seed) for seed in ("one", "old", "new"))
    tag = f"sha256-{root.digest.hex}.sig"
    primary.push("team/app", tag, old, store)
    primary.push("team/app", "v1", root, store)
    edge.push("team/app", "v0", root, store)

    def meanwhile() -> None:
        primary.push("team/app", tag, new, store)
        _apply_beside(one)

    _once(monkeypatch, StoredRepository, "tag", tag, meanwhile)
    _settle(one)
    assert edge.tags()["team/app", tag] == str(new.digest)


def test_a_manifest_that_is_pushed_again_while_it_is_deleted_keeps_its_tags(
    primary: Region, edge: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, one = MemoryStore(), replication(primary, edge, deletes=True)
    root = image(store, "one")
    primary.push("team/app", "v1", root, store)
    drain(one)
    primary.open("team/app").delete(str(root.digest))

    def meanwhile() -> None:
        primary.push("team/app", "v1", root, store)
        primary.push("team/app", "v2", root, store)
        drain(one)

    _once(monkeypatch, StoredRepository, "delete", str(root.digest), meanwhile)
    _settle(one)
    assert edge.tags() == primary.tags()


def test_a_repository_that_is_not_shown_is_not_deleted(primary: Region, edge: Region) -> None:
    """The account may have lost the right to see it."""
    store, one = MemoryStore(), replication(primary, edge, deletes=True)
    edge.push("kept", "v1", image(store, "one"), store)
    primary.push("team/app", "v1", image(store, "two"), store)
    drain(one)
    assert ("kept", "v1") in edge.tags()


def test_what_was_read_is_applied_by_the_next_process(primary: Region, edge: Region) -> None:
    store, one = MemoryStore(), replication(primary, edge)
    drain(one)
    primary.push("team/app", "v1", image(store, "one"), store)
    one.poll(0)
    again = replication(primary, edge)
    assert again.state().entries == 1
    assert again.apply_one()
    assert edge.tags() == primary.tags()


def test_one_that_fails_holds_up_no_other(
    primary: Region, edge: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, one = MemoryStore(), replication(primary, edge)
    drain(one)
    bad = image(store, "bad")
    primary.push("team/app", "bad", bad, store)
    primary.push("team/app", "good", image(store, "good"), store)
    fetch = StoredRepository.fetch

    @contextmanager
    def failing(self: StoredRepository, target: Descriptor) -> Iterator[Reader]:
        if target.digest == bad.digest:
            raise RegistryError("503", host="primary")
        with fetch(self, target) as reader:
            yield reader

    with monkeypatch.context() as patch:
        patch.setattr(StoredRepository, "fetch", failing)
        drain(one)
    assert set(edge.tags()) == {("team/app", "good")}
    assert (one.state().entries, one.state().errors) == (1, 1)
    assert "503" in one.state().error
    drain(replication(primary, edge))
    assert edge.tags() == primary.tags()


def test_what_was_deleted_before_it_was_copied_is_skipped(primary: Region, edge: Region) -> None:
    store, one = MemoryStore(), replication(primary, edge)
    drain(one)
    root = image(store, "one")
    primary.push("team/app", "v1", root, store)
    one.poll(0)
    primary.open("team/app").delete(str(root.digest))
    drain(one)
    assert edge.tags() == {}
    assert (one.state().entries, one.state().errors) == (0, 0)


def test_a_download_goes_on_where_it_broke_off(
    primary: Region, edge: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, one = MemoryStore(), replication(primary, edge)
    root = image(store, "big", size=5 << 20)
    primary.push("team/app", "v1", root, store)
    fetch, starts = StoredRepository.fetch, []

    class Breaking:
        def __init__(self, reader: Reader, left: int) -> None:
            self._reader, self._left = reader, left

        def read(self, size: int = -1, /) -> bytes:
            if self._left <= 0:
                raise RegistryError("the connection broke", host="primary")
            data = self._reader.read(min(size, self._left))
            self._left -= len(data)
            return data

    @contextmanager
    def breaking(self: StoredRepository, target: Descriptor) -> Iterator[Reader]:
        with fetch(self, target) as reader:
            yield Breaking(reader, 2 << 20) if target.size > 2 << 20 else reader

    class Seekable(StoredRepository):  # the class itself would be one for all tests to come
        @contextmanager
        def fetch_rest(self, target: Descriptor, start: int) -> Iterator[Reader]:
            starts.append(start)
            with self.fetch(target) as reader:
                reader.read(start)
                yield reader

    with monkeypatch.context() as patch:
        patch.setattr(StoredRepository, "fetch", breaking)
        drain(one)
    assert edge.tags() == {}
    assert not list(check(edge.app.storage, CheckSummary()))
    monkeypatch.setattr(primary, "open", partial(Seekable, primary.repositories))
    drain(replication(primary, edge))
    assert edge.tags() == primary.tags()
    assert starts == [2 << 20]
    edge.check_whole()


def test_wrong_bytes_are_never_there(
    primary: Region, edge: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, one = MemoryStore(), replication(primary, edge)
    root = image(store, "one", size=3 << 20)
    primary.push("team/app", "v1", root, store)
    layer = max(
        primary.app.storage.store.root.glob("blobs/sha256/*"), key=lambda p: p.stat().st_size
    )
    content = layer.read_bytes()
    layer.chmod(0o600)
    layer.write_bytes(content[:-1] + b"?")
    drain(one)
    assert edge.tags() == {}
    assert "digest" in one.state().error or "expected" in one.state().error
    layer.write_bytes(content)
    drain(replication(primary, edge))
    assert edge.tags() == primary.tags()


def test_a_tag_that_another_moves_meanwhile_is_compared_again(
    primary: Region, edge: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, one = MemoryStore(), replication(primary, edge)
    root, theirs = image(store, "ours"), image(store, "theirs")
    primary.push("team/app", "v1", root, store)
    swap = StoredRepository.swap
    moved: list[bool] = []

    def racing(self: StoredRepository, *arguments: object) -> bool:
        if not moved:
            moved.append(True)
            edge.push("team/app", "v1", theirs, store)
        return swap(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(StoredRepository, "swap", racing)
    drain(one)
    assert one.state().errors == 1
    assert edge.tags() == primary.tags()


def test_a_tag_that_another_moves_to_the_same_image_is_no_failure(
    primary: Region, edge: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image brings its signatures, whose tags have entries of their own."""
    store, one = MemoryStore(), replication(primary, edge)
    root = image(store, "ours")
    primary.push("team/app", "v1", root, store)
    swap = StoredRepository.swap

    def racing(self: StoredRepository, *arguments: object) -> bool:
        edge.push("team/app", "v1", root, store)
        return swap(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(StoredRepository, "swap", racing)
    drain(one)
    assert (one.state().errors, one.state().entries) == (0, 0)


def test_blobs_of_other_repositories_are_mounted(
    primary: Region, edge: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, one = MemoryStore(), replication(primary, edge)
    root = image(store, "one")
    primary.push("team/app", "v1", root, store)
    drain(one)
    primary.push("team/other", "v1", root, store)
    fetched = []
    fetch = StoredRepository.fetch

    def counting(self: StoredRepository, target: Descriptor) -> object:
        fetched.append(target.digest)
        return fetch(self, target)

    monkeypatch.setattr(StoredRepository, "fetch", counting)
    drain(one)
    assert edge.tags() == primary.tags()
    assert set(fetched) == {root.digest}  # the manifest; no blob


def test_an_edge_is_a_primary_for_others(primary: Region, edge: Region, tmp_path: Path) -> None:
    far, store = Region(tmp_path / "far"), MemoryStore()
    first, second = replication(primary, edge, deletes=True), replication(edge, far, deletes=True)
    root = index(store, "one")
    primary.push("team/app", "v1", root, store)
    primary.attach("team/app", statement(store, root, "signed"), store)
    for one in (first, second):
        drain(one)
    assert far.tags() == primary.tags()
    assert far.open("team/app").referrers(root)
    primary.open("team/app").delete("v1")
    for one in (first, second):
        drain(one)
    assert far.tags() == {}
    far.close()


def test_what_lags_is_unknown_until_the_primary_has_answered(primary: Region, edge: Region) -> None:
    one = replication(primary, edge)
    assert (one.state().entries, one.state().seen) == (None, 0)
    one.poll(0)
    assert one.state().entries == 0
    assert one.state().seen > 0


def test_lag_is_the_age_by_the_clock_of_the_primary(primary: Region, edge: Region) -> None:
    store, one = MemoryStore(), replication(primary, edge)
    drain(one)
    primary.push("team/app", "v1", image(store, "one"), store)
    one.poll(0)
    assert one._backlog.oldest == primary.app.now
    one._progress.skew_s = primary.app.now + 90 - one._clock()
    assert one.state().seconds == pytest.approx(90, abs=1)


def test_a_bandwidth_bounds_all_transfers_together() -> None:
    slept: list[float] = []
    meter = Meter(1000, clock=lambda: 0.0, pause=slept.append)
    for _ in range(3):
        meter.take(500)
    assert slept == [0.5, 1.0, 1.5]
    assert meter.longest_read <= 16 << 10


_NAMES, _TAGS = ("team/app", "base"), ("v1", "v2", "latest")
_OPERATION = st.one_of(
    st.tuples(st.just("push"), st.sampled_from(_NAMES), st.sampled_from(_TAGS), st.integers(0, 4)),
    st.tuples(st.just("sign"), st.sampled_from(_NAMES), st.just(""), st.integers(0, 4)),
    st.tuples(st.just("untag"), st.sampled_from(_NAMES), st.sampled_from(_TAGS), st.just(0)),
    st.tuples(st.just("delete"), st.sampled_from(_NAMES), st.just(""), st.integers(0, 4)),
    st.tuples(
        st.sampled_from(("poll", "apply", "restart", "cut")), st.just(""), st.just(""), st.just(0)
    ),
)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.lists(_OPERATION, max_size=25))
def test_every_tag_of_the_edge_is_whole_at_every_instant_and_it_converges(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, str, str, int]]
) -> None:
    root = tmp_path_factory.mktemp("regions")
    primary, edge, store = Region(root / "primary"), Region(root / "edge"), MemoryStore()
    one = replication(primary, edge, deletes=True)
    images = [index(store, str(number)) for number in range(5)]
    try:
        for operation, name, tag, number in operations:
            target = images[number]
            match operation:
                case "push":
                    primary.push(name, tag, target, store)
                case "sign":
                    about = statement(store, target, f"about {number}")
                    primary.attach(name, about, store)
                case "untag" | "delete":
                    with suppress(NotFound):
                        primary.open(name).delete(tag or str(target.digest))
                case "poll":
                    one.poll(0)
                case "apply":
                    one.apply_one()
                case "restart":
                    one = replication(primary, edge, deletes=True)
                case "cut":
                    primary.app.storage.journal.trim(1, 1e9)
            edge.check_whole()
        drain(one)
        edge.check_whole()
        there = primary.tags()
        kept = {name for name, _ in there}
        assert {key: value for key, value in edge.tags().items() if key[0] in kept} == there
        for name, tag in there:
            target = primary.open(name).resolve(tag)
            assert set(primary.open(name).referrers(target)) == set(
                edge.open(name).referrers(target)
            )
    finally:
        primary.close()
        edge.close()
