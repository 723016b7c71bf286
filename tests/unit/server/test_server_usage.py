"""Who pushed what and when, usage counters, and ownership of uploads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from directories import CONFIG, Directory

from node_app import fill
from shipline.metadata import walk
from shipline.oci import Descriptor, Digest, Manifest
from shipline.server.cache import UPLOADING
from shipline.server.entries import Usage
from shipline.server.fsck import CheckSummary, check
from shipline.server.problems import Problem

A, B = b"a" * 5000, b"b" * 6000


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Directory]:
    opened = Directory(tmp_path)
    yield opened
    opened.close()


def push(node: Directory, name: str, content: bytes, tag: str, actor: str) -> Digest:
    fill(node.uploads.put(name, Digest.of(content), None, actor=actor), [content])
    image = Manifest.make(Descriptor.of(content, CONFIG), [])
    digest = image.descriptor.digest
    node.manifests.put(name, digest, image, (tag,), actor=actor)
    return digest


def test_an_upload_belongs_to_who_began_it(node: Directory) -> None:
    identity = node.uploads.start("repo", "sha256", actor="ann")
    for name, actor in (("repo", "bob"), ("repo", ""), ("other", "ann")):
        for call in (
            lambda name=name, actor=actor: node.uploads.size(name, identity, actor=actor),
            lambda name=name, actor=actor: fill(
                node.uploads.append(name, identity, None, None, actor=actor), [A]
            ),
            lambda name=name, actor=actor: fill(
                node.uploads.finish(name, identity, Digest.of(A), None, None, actor=actor), [A]
            ),
            lambda name=name, actor=actor: node.uploads.cancel(name, identity, actor=actor),
        ):
            with pytest.raises(Problem) as refused:
                call()
            assert refused.value.reason == "BLOB_UPLOAD_UNKNOWN"
    fill(node.uploads.finish("repo", identity, Digest.of(A), None, None, actor="ann"), [A])
    assert node.storage.blob_size("repo", Digest.of(A)) == len(A)


def test_bytes_of_a_refused_digest_do_not_count(node: Directory) -> None:
    identity = node.uploads.start("repo", "sha256")
    fill(node.uploads.append("repo", identity, None, None), [A])
    with pytest.raises(Problem) as refused:
        fill(node.uploads.finish("repo", identity, Digest.of(A), None, None), [B])
    assert refused.value.reason == "DIGEST_INVALID"
    assert node.storage.totals.total("repo")[UPLOADING] == len(A)


def test_a_mount_takes_only_from_what_the_client_may_read(node: Directory) -> None:
    digest = node.blob("secret", A)

    def readable(name: str) -> bool:
        return name != "secret"

    assert not node.storage.mount(digest, "mine", "secret", readable=readable)
    assert not node.storage.mount(digest, "mine", None, readable=readable)
    node.blob("public", A)
    assert node.storage.mount(digest, "mine", None, readable=readable)


def test_a_listing_says_who_and_when(node: Directory) -> None:
    first = push(node, "repo", A, "v1", "ann")
    node.later(100)
    second = push(node, "repo", B, "v2", "bob")
    listed = {one.digest: one for one in node.manifests.list_manifests("repo")}
    assert listed.keys() == {first, second}
    assert (listed[second].by, listed[second].tags) == ("bob", ("v2",))
    assert listed[second].at - listed[first].at == 100
    pages = [node.manifests.list_manifests("repo", limit=1)]
    pages.append(node.manifests.list_manifests("repo", str(pages[0][0].digest), 1))
    assert [one.digest for page in pages for one in page] == sorted((first, second))
    assert [(one.tag, one.by) for one in node.manifests.every_tag("repo")] == [
        ("v1", "ann"),
        ("v2", "bob"),
    ]


def test_usage_counts_each_thing_once(node: Directory) -> None:
    for _ in range(2):
        push(node, "team/app", A, "v1", "ann")
    push(node, "team/app", A, "v2", "ann")
    digest = push(node, "team/other", B, "v1", "ann")
    usage = dict(node.storage.usages())
    size = sum(one.size for one in node.manifests.list_manifests("team/app"))
    assert usage["team/app"] == Usage(blobs=1, bytes=len(A) + size, manifests=1, tags=2)
    assert node.storage.usage("teams") == Usage()
    node.manifests.delete("team/other", digest)
    node.storage.delete_blob("team/other", Digest.of(B))
    assert node.storage.usage("team/other") == Usage()


def test_a_check_refuses_and_nothing_is_written(node: Directory) -> None:
    push(node, "repo", A, "v1", "ann")
    before = list(walk(node.storage.records, ()))
    image = Manifest.make(Descriptor.of(A, CONFIG), [], annotations={"other": "yes"})

    def refuse() -> None:
        assert node.manifests.get("repo", "v1") is not None
        raise Problem(403, "DENIED", "v1 cannot move")

    with pytest.raises(Problem, match="cannot move"):
        node.manifests.put("repo", image.descriptor.digest, image, ("v1",), check=refuse)
    stored = node.manifests.get("repo", "v1")
    assert stored is not None
    with pytest.raises(Problem, match="cannot move"):
        node.manifests.delete("repo", stored.digest, check=refuse)
    with pytest.raises(Problem, match="cannot move"):
        node.manifests.untag("repo", "v1", check=refuse)
    assert list(walk(node.storage.records, ())) == before


def test_pushes_and_deletions_at_once_leave_no_fault(node: Directory) -> None:
    """Indexes and counters are right whatever the order: one tag, few contents, many threads."""
    contents = [bytes([number]) * 100 for number in range(4)]

    def work(seed: int) -> None:
        for number in range(25):
            content = contents[(seed + number) % len(contents)]
            try:
                digest = push(node, "repo", content, f"t{number % 2}", f"actor{seed}")
                if number % 5 == 0:
                    node.manifests.delete("repo", digest)
                if number % 7 == 0:
                    node.manifests.untag("repo", "t1")
                if number % 9 == 0:
                    node.storage.delete_blob("repo", Digest.of(content))
            except Problem as problem:
                assert problem.reason == "MANIFEST_BLOB_UNKNOWN"  # another thread deleted it

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kinds = {finding.kind for finding in check(node.storage, CheckSummary())}
    assert kinds <= {"incomplete-manifest"}  # a blob may be deleted under its image
