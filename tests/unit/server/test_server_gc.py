"""Garbage collection removes what is unreferenced, and never what a push may rely on."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from directories import Directory

from shipline.errors import UsageError
from shipline.oci import Descriptor, Digest
from shipline.server.events import NodeEvent
from shipline.server.gc import GcOptions, collect
from shipline.server.problems import Problem
from shipline.units import Duration

A, B, C = b"a" * 5000, b"b" * 6000, b"c" * 7000


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Directory]:
    opened = Directory(tmp_path)
    yield opened
    opened.close()


def signature_tag(image: Descriptor, suffix: str = ".sig") -> str:
    return f"sha256-{image.digest.hex}{suffix}"


def test_a_blob_that_nothing_needs_goes_after_the_grace_period(node: Directory) -> None:
    node.image("repo", [A], "v1")
    alone = node.blob("repo", B)
    assert node.collect().blobs == 0
    node.later()
    report = node.collect()
    assert (report.blobs, report.files, report.bytes) == (1, 1, len(B))
    assert alone.hex not in node.files()
    assert node.storage.open_blob("repo", Digest.of(A)) is not None
    assert node.collect().blobs == 0


def test_content_promised_to_a_client_is_kept(node: Directory) -> None:
    asked, mounted = node.blob("repo", A), node.blob("other", B)
    node.later()
    assert node.storage.open_blob("repo", asked) is not None
    assert node.storage.mount(mounted, "repo", "other")
    node.later(1000)
    assert node.collect().files == 0
    assert node.storage.blob_size("repo", asked) == len(A)
    assert node.storage.blob_size("repo", mounted) == len(B)
    assert node.storage.blob_size("other", mounted) is None


def test_nothing_goes_before_the_node_has_run_for_the_grace_period(tmp_path: Path) -> None:
    first = Directory(tmp_path)
    first.blob("repo", A)
    first.close()
    second = Directory(tmp_path)
    second.clock.now += 50 * 3600
    second.storage.promises._complete_since = second.clock.now - 10  # what a start sets
    assert second.collect().files == 0
    second.later()
    assert second.collect().files == 1
    second.close()


def test_what_was_deleted_frees_its_file(node: Directory) -> None:
    image, blob = node.image("repo", [A], "v1"), Digest.of(A)
    node.image("other", [A], "v1")
    node.manifests.delete("repo", image.digest)
    node.storage.delete_blob("repo", blob)
    assert node.collect().files == 0  # the other repository has it
    node.manifests.delete("other", image.digest)
    node.storage.delete_blob("other", blob)
    assert node.collect().files == 2  # the manifest and the layer; the config is young
    assert blob.hex not in node.files()


def test_untagged_manifests_stay_unless_asked_for(node: Directory) -> None:
    old = node.image("repo", [A], "v1")
    new = node.image("repo", [B], "v1")
    node.later()
    assert node.collect().manifests == 0
    assert node.has("repo", old)
    report = node.collect(untagged=True)
    assert (report.manifests, report.blobs) == (1, 2)
    assert node.has("repo", new)
    assert not node.has("repo", old)
    assert Digest.of(A).hex not in node.files()


def test_children_and_referrers_of_what_stays_stay(node: Directory) -> None:
    child = node.image("repo", [A])
    index = node.index("repo", [child], "v1")
    of_child = node.image("repo", [B], subject=child)
    of_that = node.image("repo", [C], subject=of_child)
    signature = node.image("repo", [b"sig"], signature_tag(child))
    node.later()
    assert node.collect(untagged=True).manifests == 0
    assert all(node.has("repo", one) for one in (child, index, of_child, of_that, signature))
    node.manifests.untag("repo", "v1")
    report = node.collect(untagged=True)
    assert (report.manifests, report.tags, report.repositories) == (5, 1, 1)
    assert node.files() == set()


def test_signatures_and_referrers_go_with_their_image(node: Directory) -> None:
    image, other = node.image("repo", [A], "v1"), node.image("repo", [B], "v2")
    gone = [
        node.image("repo", [b"sig"], signature_tag(image)),
        node.image("repo", [b"att"], signature_tag(image, ".att")),
        (referrer := node.image("repo", [b"sbom"], subject=image)),
        node.image("repo", [b"of the sbom"], subject=referrer),
    ]
    stays = [
        node.image("repo", [b"sig 2"], signature_tag(other)),
        node.image("repo", [b"kept by a tag"], "keep", subject=image),
        node.image("signatures", [b"sig"], signature_tag(image)),
    ]
    node.later()
    node.manifests.delete("repo", image.digest)
    told: list[NodeEvent] = []
    report = collect(node.storage, GcOptions(every=None), publish=told.append)
    assert report.manifests == 4 and told.pop().kind == "collect"
    assert {one.digest for one in told} == {str(one.digest) for one in gone}
    assert {(one.kind, one.actor) for one in told} == {("delete", "collection")}
    assert not any(node.has("repo", one) for one in gone)
    assert node.has("repo", stays[0])
    assert node.has("repo", stays[1])
    assert node.has("signatures", stays[2])
    assert node.storage.records.scan(("deleted", "repo"))  # one that stays refers to it
    assert node.collect(untagged=True).manifests == 0


def test_an_image_that_is_pushed_again_keeps_its_signatures(node: Directory) -> None:
    image = node.image("repo", [A], "v1")
    signature = node.image("repo", [b"sig"], signature_tag(image))
    node.manifests.delete("repo", image.digest)
    node.image("repo", [A], "v1")
    node.later()
    assert node.collect(untagged=True).manifests == 0
    assert node.has("repo", signature)


def test_a_dry_run_says_what_a_run_does(node: Directory) -> None:
    child = node.image("repo", [A])
    node.index("repo", [child])
    node.image("repo", [C], signature_tag(child))
    node.image("other", [A, B], "v1")
    node.blob("other", b"alone")
    node.later()
    before = node.files()
    foretold = node.collect(untagged=True, dry_run=True)
    assert node.files() == before
    assert foretold.repositories == 1
    foretold.dry_run = False
    assert node.collect(untagged=True) == foretold


def test_usage_is_what_is_left(node: Directory) -> None:
    image = node.image("repo", [A, B], "v1", "v2")
    node.blob("repo", C)
    node.later()
    node.collect()
    usage = node.storage.usage("repo")
    config = node.storage.records.scan(("blob", "repo"))
    assert (usage.blobs, usage.manifests, usage.tags) == (3, 1, 2) == (len(config), 1, 2)
    node.manifests.delete("repo", image.digest)
    node.collect()
    assert node.storage.usage("repo").bytes == 0
    assert not node.storage.exists("repo")


def test_one_collection_at_a_time(node: Directory) -> None:
    with node.storage.collecting, pytest.raises(UsageError, match="running"):
        node.collect()


@pytest.mark.slow
def test_pushes_never_miss_what_a_collection_took(tmp_path: Path) -> None:
    """Clients that are quicker than the grace period, against collections without a pause."""
    node = Directory(tmp_path, clock=time.time)
    grace, stop = 0.5, threading.Event()
    refused: list[str] = []
    removed: list[int] = []
    pushed: list[tuple[str, Descriptor]] = []

    def push(seed: int) -> None:
        chance, name = random.Random(seed), f"repo{seed % 2}"
        while not stop.is_set():
            layers = [chance.choice("abcdefgh").encode() * 3000 for _ in range(2)]
            begun = time.time()
            try:
                image = node.image(name, layers, f"t{chance.randrange(4)}")
            except Problem as problem:
                if time.time() - begun < grace * 0.8:
                    refused.append(problem.message)
                continue
            pushed.append((name, image))
            if chance.random() < 0.2:
                node.manifests.delete(name, image.digest)

    def sweep() -> None:
        options = GcOptions(every=None, grace=Duration(int(grace * 1000)), untagged=True)
        while not stop.is_set():
            report = collect(node.storage, options)
            removed.append(report.manifests + report.blobs)

    threads = [threading.Thread(target=push, args=(seed,)) for seed in range(4)]
    threads.append(threading.Thread(target=sweep))
    for thread in threads:
        thread.start()
    until = time.monotonic() + 60
    while time.monotonic() < until and (len(pushed) < 100 or sum(removed) < 30):
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert refused == []
    assert len(pushed) >= 100 and sum(removed) >= 30
    for name in ("repo0", "repo1"):
        for tag in node.manifests.every_tag(name):
            stored = node.manifests.get(name, tag.tag)
            assert stored is not None
            assert stored.digest == tag.digest
    node.close()


def test_a_file_that_is_evicted_before_its_collection_does_not_stop_it(
    node: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    evicted, unknown = (node.storage.store.path(Digest.of(content)) for content in (b"a", b"b"))
    for file in (evicted, unknown):
        file.write_bytes(b"garbage")
    exclusive = node.storage.exclusive

    def evict_first() -> AbstractContextManager[None]:
        evicted.unlink(missing_ok=True)
        return exclusive()

    monkeypatch.setattr(node.storage, "exclusive", evict_first)
    report = node.collect()
    assert (report.files, report.bytes) == (1, len(b"garbage"))
    assert not unknown.exists()
    assert not list(node.storage.incoming.iterdir())
