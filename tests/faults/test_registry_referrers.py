"""The list of referrers of a registry without that API: what falls out of it comes back."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from images import make_image
from registries import REGISTRY, docker_registry

from shipline.content import LocalStore, MemoryStore, OciLayout, copy_graph
from shipline.oci import Descriptor, Index, Manifest, Reference, media
from shipline.registry import Client, RemoteRepository
from shipline.registry.manifests import referrers_tag
from shipline.supply import copy_evidence
from shipline.tasks import TaskGroup

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(REGISTRY is None, reason="docker-registry is not installed"),
]
SIGNERS = 6


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with docker_registry(tmp_path_factory.mktemp("referrers")) as port:
        yield port


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def _at(client: Client, port: int, name: str) -> RemoteRepository:
    return client.repository(Reference.parse(f"127.0.0.1:{port}/{name}"))


def _referring(store: LocalStore, image: Descriptor, kind: str) -> Descriptor:
    manifest = Manifest.make(
        store.add(b"{}", media.OCI_EMPTY), [], subject=image, artifact_type=f"application/{kind}"
    )
    return store.add(manifest.raw, manifest.media_type)


def test_copying_again_enters_what_the_list_has_lost(port: int, store: LocalStore) -> None:
    image = make_image(store, 1000)
    kept, lost = (_referring(store, image, kind) for kind in ("kept", "lost"))
    with Client() as client:
        repository = _at(client, port, "team/lost")
        for one in (image, kept, lost):
            copy_graph(store, repository, one)
        rest = Index.make([one for one in repository.referrers(image) if one.digest == kept.digest])
        repository.tag(rest.descriptor, MemoryStore(rest.raw), referrers_tag(image.digest))
        assert {one.digest for one in repository.referrers(image)} == {kept.digest}
    with Client() as client:
        repository = _at(client, port, "team/lost")
        copy_graph(store, repository, lost)
        assert {one.digest for one in repository.referrers(image)} == {kept.digest, lost.digest}


def test_writers_at_once_keep_each_other(port: int, store: LocalStore) -> None:
    image = make_image(store, 1000)
    wanted = [_referring(store, image, f"n{number}") for number in range(SIGNERS)]

    def push(one: Descriptor) -> None:
        with Client() as client:
            copy_graph(store, _at(client, port, "team/many"), one)

    with Client() as client:
        repository = _at(client, port, "team/many")
        copy_graph(store, repository, image)
        push(wanted[0])  # docker-registry loses a blob now and then that several push at once
        with TaskGroup() as group:
            for one in wanted[1:]:
                group.start(push, one)
        for one in wanted:  # each once more, as whoever signs or copies again does
            push(one)
        assert {one.digest for one in repository.referrers(image)} == {one.digest for one in wanted}


def test_what_is_listed_and_gone_is_left_out(
    port: int, store: LocalStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = make_image(store, 1000)
    kept, gone = (_referring(store, image, kind) for kind in ("kept", "gone"))
    target = OciLayout(tmp_path / "layout", create=True)
    with Client() as client:
        repository = _at(client, port, "team/gone")
        for one in (image, kept, gone):
            copy_graph(store, repository, one)
        listed = Index.make([gone, kept, kept, image])  # the last refers to itself
        repository.tag(listed.descriptor, MemoryStore(listed.raw), referrers_tag(image.digest))
        path = f"/v2/team/gone/manifests/{gone.digest}"  # by a program that leaves it in the list
        connection = HTTPConnection("127.0.0.1", port)
        connection.request("DELETE", path)
        assert connection.getresponse().status == 202
    with Client() as client:
        repository = _at(client, port, "team/gone")
        copy_graph(repository, target, image)
        assert copy_evidence(repository, target, image) == 1
    assert [one.digest for one in target.referrers(image)] == [kept.digest]
    assert str(gone.digest) in caplog.text
