"""Repositories of upstreams: names, access, tags over time, eviction, by values."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from node_app import NodeApp, fill
from shipline.content import MemoryStore
from shipline.errors import AuthError, ConfigError, NotFound, RegistryError
from shipline.metadata import walk
from shipline.oci import Descriptor, Digest, Manifest, media
from shipline.server.fsck import CheckSummary, check
from shipline.server.gc import GcOptions, collect
from shipline.server.metrics import Metrics
from shipline.server.upstreams.pull_through import PullThrough
from shipline.server.upstreams.section import UpstreamSection
from shipline.server.upstreams.upstream import Breaker
from shipline.units import ByteSize, Duration

_TYPE = "application/octet-stream"


class MemoryOrigin:
    """Every repository of an upstream, in memory; `failure` is raised instead of answers."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.known: dict[Digest, Descriptor] = {}
        self.tagged: dict[str, Descriptor] = {}
        self.asked: list[str] = []
        self.failure: Exception | None = None

    def add(self, content: bytes, media_type: str = _TYPE) -> Descriptor:
        target = Descriptor.of(content, media_type)
        with self.store.ingest() as ingest:
            ingest.write(content)
            ingest.commit(target)
        self.known[target.digest] = target
        return target

    def image(self, tag: str, *layers: bytes) -> Manifest:
        config = self.add(json.dumps({"os": "linux", "tag": tag}).encode(), media.OCI_CONFIG)
        blobs = tuple(self.add(layer, media.OCI_LAYER) for layer in layers)
        manifest = Manifest.make(config, blobs)
        self.tagged[tag] = self.add(manifest.raw, manifest.media_type)
        return manifest

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.failure is not None:
            raise self.failure

    def resolve(self, reference: str) -> Descriptor:
        self._ask(f"GET {reference}")
        if ":" in reference:
            found = self.known.get(Digest.parse(reference))
        else:
            found = self.tagged.get(reference)
        if found is None:
            raise NotFound(reference)
        return found

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[Any]:
        if target.media_type not in media.NAMED:
            self._ask(f"BLOB {target.digest}")
        with self.store.fetch(target) as reader:
            yield reader

    def digest_of(self, tag: str) -> Digest | None:
        self._ask(f"HEAD {tag}")
        if tag not in self.tagged:
            raise NotFound(tag)
        return self.tagged[tag].digest

    def blob_size(self, digest: Digest) -> int:
        self._ask(f"SIZE {digest}")
        if digest not in self.known:
            raise NotFound(str(digest))
        return self.known[digest].size

    def tags(self) -> Iterator[str]:
        self._ask("TAGS")
        return iter(self.tagged)

    def referrers(self, target: Descriptor) -> tuple[Descriptor, ...]:
        self._ask("REFERRERS")
        return ()


class Edge(NodeApp):
    """A node in front of `origin`, whatever the repository."""

    def __init__(self, data: Path, *sections: UpstreamSection) -> None:
        self.origin = MemoryOrigin()
        self.opened: list[str] = []
        self.sections = sections or (UpstreamSection("https://origin.example"),)
        super().__init__(data)

        def connect(section: UpstreamSection) -> Callable[[str], MemoryOrigin]:
            def open_origin(name: str) -> MemoryOrigin:
                self.opened.append(name)
                return self.origin

            return open_origin

        metrics = Metrics()
        self.through = PullThrough(
            self.sections, connect, self.storage, self.node.manifests, metrics
        )
        self.rebuild(pull_through=self.through, metrics=metrics)

    def close(self) -> None:
        self.through.close()
        super().close()

    def blob(self, name: str, digest: object) -> bytes:
        body = self.call("GET", f"/v2/{name}/blobs/{digest}").body
        deadline = time.monotonic() + 30
        while self.through.arriving:  # it is sent before it is stored
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return body


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    with opened(tmp_path) as running:
        yield running


@contextmanager
def opened(data: Path, *sections: UpstreamSection) -> Iterator[Edge]:
    running = Edge(data, *sections)
    try:
        yield running
    finally:
        running.close()


HUB = UpstreamSection("https://registry-1.docker.io", match="docker.io/*")
QUAY = UpstreamSection("https://quay.io/mirror", match="quay.io/*")
TEAM = UpstreamSection("http://127.0.0.1:5001", match="team/*")
LOCAL = UpstreamSection("http://localhost:5000", match="localhost:5000/*")


@pytest.mark.parametrize(
    ("name", "ns", "local", "origin"),
    [
        ("docker.io/library/alpine", "", "docker.io/library/alpine", "library/alpine"),
        ("docker.io/alpine", "", "docker.io/library/alpine", "library/alpine"),
        ("library/alpine", "docker.io", "docker.io/library/alpine", "library/alpine"),
        ("library/alpine", "registry-1.docker.io", "docker.io/library/alpine", "library/alpine"),
        ("a/b/c", "quay.io", "quay.io/a/b/c", "a/b/c"),
        ("app", "localhost:5000", "localhost_5000/app", "app"),
        ("team/app", "", "team/app", "team/app"),
        ("team/app", "127.0.0.1:5001", "team/app", "team/app"),
        ("own/app", "", "own/app", None),
        ("own/app", "ghcr.io", "own/app", None),
    ],
)
def test_a_repository_has_one_name_here_and_one_there(
    tmp_path: Path, name: str, ns: str, local: str, origin: str | None
) -> None:
    with opened(tmp_path, HUB, QUAY, TEAM, LOCAL) as edge:
        edge.origin.image("v1", b"layer")
        answer = edge.call("GET", f"/v2/{name}/manifests/v1" + (f"?ns={ns}" if ns else ""))
        assert answer.status == (404 if origin is None else 200)
        assert edge.opened == ([] if origin is None else [origin])
        assert edge.through.local_name(name, ns) == local
        told = answer.headers.get("OCI-Namespace")
        assert told == (ns if ns and origin is not None else None)


def test_a_mirror_of_docker_hub_serves_every_client(tmp_path: Path) -> None:
    sections = (HUB, UpstreamSection("https://mirror.example"))
    with opened(tmp_path, *sections) as edge:
        edge.origin.image("v1", b"layer")
        for asked, opened_name in (
            ("library/alpine/manifests/v1", "library/alpine"),  # Docker, Podman
            ("library/alpine/manifests/v1?ns=docker.io", "library/alpine"),  # containerd, shipline
            ("docker.io/library/alpine/manifests/v1", "library/alpine"),  # Podman, with a path
        ):
            assert edge.call("GET", f"/v2/{asked}").status == 200
            assert edge.opened[-1] == opened_name


def test_a_registry_that_the_node_is_not_in_front_of_is_not_confused_with_another(
    tmp_path: Path,
) -> None:
    with opened(tmp_path, TEAM) as edge:
        edge.origin.image("v1", b"layer")
        assert edge.call("GET", "/v2/team/app/manifests/v1?ns=ghcr.io").status == 404
        assert edge.call("GET", "/v2/team/app/manifests/v1").status == 200


@pytest.mark.parametrize(
    "section",
    [
        {"url": "registry.example"},
        {"url": "https://x.example", "match": "[z-a]/*"},
        {"url": "https://x.example", "username": "me"},
        {"url": "https://x.example", "stale_if_error": Duration.parse("25h")},
    ],
)
def test_a_section_that_cannot_work_is_refused(section: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        UpstreamSection(**section)


def test_pushes_to_a_repository_of_an_upstream_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path, HUB) as edge:
        image = edge.origin.image("v1", b"layer")
        pushed = edge.push("docker.io/x", "v1", image.raw, image.media_type)
        assert pushed.status == 405 and "push it there" in pushed.message
        assert edge.call("POST", "/v2/docker.io/x/blobs/uploads/").status == 405
        assert edge.call("POST", "/v2/own/x/blobs/uploads/").status == 202


def test_what_a_repository_has_is_not_asked_for_again(edge: Edge) -> None:
    image = edge.origin.image("v1", b"layer" * 50_000)
    (layer,) = image.layers
    for _ in range(3):
        assert edge.pull("a/b", "v1").body == image.raw
        assert edge.pull("a/b", Digest.of(image.raw)).body == image.raw
        assert edge.blob("a/b", layer.digest) == b"layer" * 50_000
    assert edge.origin.asked == ["GET v1", f"BLOB {layer.digest}"]


def test_content_belongs_to_the_repository_that_it_came_from(edge: Edge) -> None:
    image = edge.origin.image("v1", b"secret")
    (layer,) = image.layers
    assert edge.blob("private/app", layer.digest) == b"secret"
    edge.origin.known.clear()
    for path in (f"blobs/{layer.digest}", f"manifests/{Digest.of(image.raw)}"):
        assert edge.call("GET", f"/v2/public/app/{path}").status == 404


def test_an_own_repository_does_not_have_what_is_cached(tmp_path: Path) -> None:
    with opened(tmp_path, HUB) as edge:
        (layer,) = edge.origin.image("v1", b"layer").layers
        assert edge.blob("docker.io/x", layer.digest) == b"layer"
        assert edge.call("GET", f"/v2/own/x/blobs/{layer.digest}").status == 404


def test_a_tag_is_fresh_then_checked_then_stale(tmp_path: Path) -> None:
    section = UpstreamSection(
        "https://origin.example", fresh=Duration.parse("1m"), stale_if_error=Duration.parse("1h")
    )
    with opened(tmp_path, section) as edge:
        image = edge.origin.image("v1", b"layer")
        assert edge.pull("a/b", "v1").body == image.raw
        edge.now += 59
        assert edge.pull("a/b", "v1").body == image.raw
        assert edge.origin.asked == ["GET v1"]
        edge.now += 2
        assert edge.pull("a/b", "v1").headers.get("Warning") is None
        assert edge.origin.asked == ["GET v1", "HEAD v1"]
        edge.origin.failure = RegistryError("down", host="origin.example", status=503)
        edge.now += 3000
        stale = edge.pull("a/b", "v1")
        assert stale.status == 200 and stale.headers["Age"] == "3000"
        assert "last checked 50m ago" in stale.headers["Warning"]
        edge.now += 601
        assert edge.pull("a/b", "v1").status == 502


def test_a_refusal_is_no_outage(edge: Edge) -> None:
    image = edge.origin.image("v1", b"layer")
    assert edge.pull("a/b", "v1").body == image.raw
    edge.now += 100
    edge.origin.failure = RegistryError("no", host="origin.example", status=400)
    assert edge.pull("a/b", "v1").status == 502


def test_freshness_survives_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as edge:
        edge.origin.image("v1", b"layer")
        assert edge.pull("a/b", "v1").status == 200
    with opened(tmp_path) as edge:
        assert edge.pull("a/b", "v1").status == 200
        assert edge.origin.asked == []
        edge.now += 100
        edge.origin.failure = RegistryError("down", host="origin.example")
        assert edge.pull("a/b", "v1").headers["Warning"]


def test_a_clock_that_goes_back_does_not_keep_a_tag_fresh(edge: Edge) -> None:
    edge.origin.image("v1", b"layer")
    assert edge.pull("a/b", "v1").status == 200
    edge.now -= 86_400
    assert edge.pull("a/b", "v1").status == 200
    assert edge.origin.asked == ["GET v1", "HEAD v1"]


def test_a_tag_that_moved_back_is_not_fetched(edge: Edge) -> None:
    first = edge.origin.image("v1", b"first")
    at_first = edge.origin.tagged["v1"]
    assert edge.pull("a/b", "v1").body == first.raw
    second = edge.origin.image("v1", b"second")
    edge.now += 100
    assert edge.pull("a/b", "v1").body == second.raw
    edge.origin.tagged["v1"] = at_first
    edge.now += 100
    assert edge.pull("a/b", "v1").body == first.raw
    assert edge.origin.asked == ["GET v1", "HEAD v1", "GET v1", "HEAD v1"]


def test_an_upstream_of_every_repository_has_no_say_in_the_login(edge: Edge) -> None:
    answer = edge.call("GET", "/v2/")
    assert answer.status == 200 and answer.headers.get("WWW-Authenticate") is None
    assert edge.origin.asked == [] and edge.opened == []


def layers_kept(edge: Edge) -> list[str]:
    return [name for (name, _), _ in walk(edge.storage.records, ("blob",))]


def capped(size: int) -> UpstreamSection:
    return UpstreamSection("https://origin.example", match="up/*", cache_size=ByteSize(size))


def test_what_was_used_least_recently_is_evicted(tmp_path: Path) -> None:
    with opened(tmp_path, capped(3000)) as edge:
        layers = [edge.origin.add(bytes([number]) * 1000) for number in range(4)]
        for layer in layers:
            edge.now += 100
            assert edge.blob("up/x", layer.digest)
        edge.now += 100
        assert edge.blob("up/x", layers[0].digest)  # used again
        edge.now += 100
        edge.through.cached.evict()
        kept = [edge.storage.blob_size("up/x", layer.digest) for layer in layers]
        assert kept == [1000, None, None, 1000]
        files = {file.name for file in (tmp_path / "blobs" / "sha256").iterdir()}
        assert files == {layers[0].digest.hex, layers[3].digest.hex}
        assert list((tmp_path / "uploads").iterdir()) == []
        assert edge.blob("up/x", layers[1].digest)  # fetched again
        assert edge.through.cached.sizes() == {"up/*": 3000}


def test_what_is_used_or_was_pushed_is_not_evicted(tmp_path: Path) -> None:
    with opened(tmp_path, capped(10)) as edge:
        cached = edge.origin.add(b"c" * 1000)
        pushed = edge.origin.add(b"p" * 1000)
        fill(edge.node.uploads.put("up/x", pushed.digest, 1000), [b"p" * 1000])  # once its own
        fill(edge.node.uploads.put("own/x", cached.digest, 1000), [b"c" * 1000])
        edge.now += 100
        assert edge.blob("up/x", cached.digest)
        edge.through.cached.evict()
        assert edge.storage.blob_size("up/x", cached.digest) == 1000  # used just now
        edge.now += 100
        edge.through.cached.evict()
        assert edge.storage.blob_size("up/x", cached.digest) is None
        assert edge.storage.blob_size("up/x", pushed.digest) == 1000
        assert edge.storage.store.path(cached.digest).exists()  # own/x has it, too


def test_an_evicted_image_is_fetched_again(tmp_path: Path) -> None:
    with opened(tmp_path, capped(1)) as edge:
        image = edge.origin.image("v1", b"layer")
        for _ in range(2):
            assert edge.pull("up/x", "v1").body == image.raw
            assert edge.blob("up/x", image.layers[0].digest) == b"layer"
            edge.now += 200
            edge.through.cached.evict()
            assert edge.storage.usage("up/x").bytes == 0
        assert edge.origin.asked.count("GET v1") == 2


def test_times_of_use_survive_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path, capped(1500)) as edge:
        layers = [edge.origin.add(bytes([number]) * 1000) for number in range(2)]
        for layer in (*layers, layers[0]):
            edge.now += 100
            assert edge.blob("up/x", layer.digest)
        edge.through.cached.save()
        now = edge.now
    with opened(tmp_path, capped(1500)) as edge:
        edge.now = now + 1000
        edge.storage.promises.assume_none()
        edge.through.cached.evict()
        kept = [edge.storage.blob_size("up/x", layer.digest) for layer in layers]
        assert kept == [1000, None]


def test_a_directory_with_parts_of_images_is_consistent(edge: Edge) -> None:
    image = edge.origin.image("v1", b"one", b"two")
    assert edge.pull("a/b", "v1").status == 200
    assert edge.blob("a/b", image.layers[0].digest) == b"one"
    summary = CheckSummary()
    assert list(check(edge.storage, summary)) == []
    edge.now += 86_400
    report = collect(edge.storage, GcOptions())
    assert report.blobs == 0 and report.manifests == 0
    assert edge.blob("a/b", image.layers[0].digest) == b"one"


def test_what_is_collected_is_not_counted_any_more(edge: Edge) -> None:
    (layer,) = edge.origin.image("v1", b"layer").layers
    assert edge.blob("a/b", layer.digest) == b"layer"  # without its manifest
    edge.storage.promises.assume_none()
    edge.now += 86_400
    assert collect(edge.storage, GcOptions()).blobs == 1
    edge.through.cached.forget_removed()
    assert edge.through.cached.sizes() == {}
    assert edge.blob("a/b", layer.digest) == b"layer"


def test_a_cached_manifest_can_be_deleted_from_the_cache(edge: Edge) -> None:
    image = edge.origin.image("v1", b"layer")
    digest = Digest.of(image.raw)
    assert edge.pull("a/b", "v1").status == 200
    assert edge.call("DELETE", f"/v2/a/b/manifests/{digest}").status == 202
    assert edge.pull("a/b", "v1").body == image.raw
    assert edge.origin.asked == ["GET v1", "GET v1"]


def test_a_breaker_lets_one_request_try() -> None:
    now = [1000.0]
    breaker = Breaker(lambda: now[0])
    down = RegistryError("down", host="x")
    for _ in range(5):
        breaker.enter()
        breaker.leave(down)
    assert breaker.wait_s() == 5
    now[0] += 5
    breaker.enter()
    assert breaker.wait_s() == 5  # for the others
    breaker.leave(down)
    assert breaker.wait_s() == 10
    now[0] += 10
    breaker.enter()
    breaker.leave(None)
    assert breaker.wait_s() == 0
    breaker.leave(NotFound("x"))
    assert breaker.wait_s() == 0


def test_repositories_of_one_upstream_share_a_blob_that_arrives(edge: Edge) -> None:
    (layer,) = edge.origin.image("v1", b"layer" * 50_000).layers
    going, fetch = threading.Event(), edge.origin.fetch

    def slow(target: Descriptor) -> Any:
        assert going.wait(30)
        return fetch(target)

    edge.origin.fetch = slow  # type: ignore[method-assign]
    bodies: list[bytes] = []

    def pull(name: str) -> None:
        bodies.append(edge.blob(name, layer.digest))

    threads = [threading.Thread(target=pull, args=[name]) for name in ("a/b", "c/d", "e/f")]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while sum(one.startswith("SIZE") for one in edge.origin.asked) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(0.05)
    going.set()
    for thread in threads:
        thread.join()
    assert bodies == [b"layer" * 50_000] * 3
    assert sum(one.startswith("BLOB") for one in edge.origin.asked) == 1
    assert [edge.storage.blob_size(name, layer.digest) for name in ("a/b", "c/d", "e/f")] == [
        250_000
    ] * 3
    assert edge.through.cached.sizes() == {"*": 750_000}


def test_the_size_of_what_is_stored_is_not_the_one_that_the_upstream_says(edge: Edge) -> None:
    (layer,) = edge.origin.image("v1", b"layer").layers
    assert edge.blob("a/b", layer.digest) == b"layer"
    known = edge.origin.known[layer.digest]
    edge.origin.known[layer.digest] = Descriptor(known.media_type, known.digest, 1 << 50)
    for method in ("HEAD", "GET"):
        answer = edge.call(method, f"/v2/c/d/blobs/{layer.digest}")
        assert (answer.status, answer.headers["Content-Length"]) == (200, "5")
    assert edge.blob("c/d", layer.digest) == b"layer"


def test_lists_are_of_known_repositories_and_asked_about_each_time(edge: Edge) -> None:
    edge.origin.image("v1", b"layer")
    listed = edge.call("GET", "/v2/a/b/tags/list")
    assert listed.headers["Cache-Control"] == "public, no-cache"
    digest = Digest.of(b"x")
    referrers = edge.call("GET", f"/v2/a/b/referrers/{digest}")
    assert referrers.headers["Cache-Control"] == "public, no-cache"
    edge.origin.failure = NotFound("gone")
    unknown = edge.call("GET", "/v2/no/such/tags/list")
    assert unknown.status == 404 and "NAME_UNKNOWN" in unknown.text
    edge.origin.failure = AuthError("no", host="origin.example", status=401)
    refused = edge.call("GET", "/v2/other/such/tags/list")
    assert refused.status == 403 and "pull the tags of other/such" in refused.message


def test_clients_that_wait_share_one_request(edge: Edge) -> None:
    image = edge.origin.image("v1", b"layer")
    going = threading.Event()
    resolve = edge.origin.resolve

    def slow(reference: str) -> Descriptor:
        assert going.wait(30)
        return resolve(reference)

    edge.origin.resolve = slow  # type: ignore[method-assign]
    bodies: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: bodies.append(edge.pull("a/b", "v1").body))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    going.set()
    for thread in threads:
        thread.join()
    # one that came after the answer asks whether it is still the newest
    assert bodies == [image.raw] * 8 and {*edge.origin.asked} <= {"GET v1", "HEAD v1"}
    assert edge.origin.asked.count("GET v1") == 1
