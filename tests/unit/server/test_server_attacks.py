"""Attempts to escalate privileges; none of them works."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attached import Repository, add_image
from node_app import NodeApp, NodeRepository
from shipline.content import MemoryStore, copy_graph
from shipline.errors import ConfigError
from shipline.globs import Glob
from shipline.oci import Descriptor, Digest, Index, Manifest, media, parse_manifest
from shipline.server.access import AccountStore, Administration
from shipline.server.access.keys import Keys
from shipline.server.access.rights import TokenScope
from shipline.server.access.section import AccessSection
from shipline.server.access.tokens import Tokens
from shipline.server.admission.section import (
    AdmissionSection,
    ImmutableRule,
    Quota,
    VulnerabilityRule,
)
from shipline.server.cache import StoredManifest
from shipline.server.pages.images import CHILDREN
from shipline.server.routes.manifests import ParseMemory
from shipline.server.storage import Storage
from shipline.trust import TrustSection
from shipline.units import ByteSize

pytestmark = pytest.mark.usefixtures("cheap_hashes")

PULL = frozenset({"pull"})
Open = Callable[[AdmissionSection], NodeApp]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Open]:
    opened: list[NodeApp] = []

    def open_node(policy: AdmissionSection) -> NodeApp:
        opened.append(NodeApp(tmp_path, policy))
        return opened[-1]

    yield open_node
    for one in opened:
        one.close()


def published(app: NodeApp, name: str, tag: str) -> tuple[NodeRepository, Descriptor, Descriptor]:
    """An index of one image under a tag; the index and the image."""
    source, goal = Repository(), app.repository(name)
    image = add_image(source)
    index = Index.make([image])
    source.push(index.descriptor, MemoryStore(index.raw))
    copy_graph(source, goal, index.descriptor)
    goal.tag(index.descriptor, source, tag)
    return goal, index.descriptor, image


def blobs_of(store: NodeRepository, image: Descriptor) -> list[Descriptor]:
    with store.fetch(image) as reader:
        manifest = parse_manifest(reader.read(), image.media_type)
    assert isinstance(manifest, Manifest)
    return [manifest.config, *manifest.layers]


def test_nothing_below_a_tag_can_be_deleted_before_it(node: Open) -> None:
    """Else who may not move an immutable tag could empty it."""
    app = node(AdmissionSection(immutable=(ImmutableRule(tags=(Glob("v*"),)),)))
    store, index, image = published(app, "team/app", "v1")
    paths = [f"blobs/{blob.digest}" for blob in blobs_of(store, image)]
    for path, user in (*((path, image) for path in paths), (f"manifests/{image.digest}", index)):
        answer = app.call("DELETE", f"/v2/team/app/{path}")
        assert answer.status == 405 and str(user.digest) in answer.message
        assert app.call("GET", f"/v2/team/app/{path}").status == 200


def test_what_nothing_needs_any_more_can_be_deleted(node: Open) -> None:
    app = node(AdmissionSection())
    store, index, image = published(app, "team/app", "v1")
    blobs = blobs_of(store, image)
    for document in (index, image):
        assert app.call("DELETE", f"/v2/team/app/manifests/{document.digest}").status == 202
    for blob in blobs:
        assert app.call("DELETE", f"/v2/team/app/blobs/{blob.digest}").status == 202


@pytest.mark.parametrize("part", [b"{}", b"[]", b"1", b'{"a":1}', b'""'])
def test_a_manifest_of_many_small_parts_is_refused_unread(node: Open, part: bytes) -> None:
    app = node(AdmissionSection())
    head = b'{"schemaVersion":2,"manifests":[],"x":['
    raw = head + b",".join([part] * ((4_000_000 - len(head)) // (len(part) + 1))) + b"]}"
    tracemalloc.start()
    refused = app.push("team/app", "v1", raw, media.OCI_INDEX)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.status == 400 and "objects and lists" in refused.message
    assert peak < 8 << 20


def test_manifests_that_are_read_at_once_take_bounded_memory() -> None:
    room, inside, most = ParseMemory(), 0, 0
    lock, raw = threading.Lock(), b"{" * 100_000 + b"x" * 3_900_000  # 42 MB when read

    def push(actor: str) -> None:
        nonlocal inside, most
        with room.reserve(raw, actor):
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.02)
            with lock:
                inside -= 1

    for actors, expected in ((["eve"] * 12, 2), ([f"eve{n}" for n in range(24)], 6)):
        most = 0
        threads = [threading.Thread(target=push, args=(actor,)) for actor in actors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 0 < most <= expected
    with room.reserve(raw, "eve"), room.reserve(b"{}", "eve"):
        assert room._taken["eve"] > 0
    assert not room._taken


def test_a_page_over_long_indexes_reads_few_manifests(
    node: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = node(AdmissionSection())
    _, _, image = published(app, "team/app", "v1")
    for number in range(5):
        made = Index.make([image] * 2000, annotations={"n": str(number)})
        assert app.push("team/app", f"long{number}", made.raw, made.media_type).status == 201
    read: list[str | Digest] = []
    get = app.node.manifests.get

    def counted(name: str, reference: str | Digest) -> StoredManifest | None:
        read.append(reference)
        return get(name, reference)

    monkeypatch.setattr(app.node.manifests, "get", counted)
    for path in ("/r/team/app", "/r/team/app:long0"):
        read.clear()
        reply = app.call("GET", path)
        assert reply.status == 200 and 0 < len(read) < 2 * CHILDREN
        assert len(reply.body) < 2_000_000


def test_a_body_of_two_lengths_is_refused(node: Open) -> None:
    app = node(AdmissionSection())
    both = {"Content-Length": "5", "Transfer-Encoding": "chunked"}
    assert app.call("POST", "/v2/team/app/blobs/uploads/", b"12345", both).status == 400


def test_what_no_tag_can_be_is_not_there(node: Open) -> None:
    app = node(AdmissionSection())
    for reference in (".INVALID", "-x", "a" * 129, "%20"):
        for method in ("GET", "HEAD"):
            assert app.call(method, f"/v2/team/app/manifests/{reference}").status == 404


@pytest.mark.parametrize("session", [False, True])
def test_a_body_that_hides_its_length_fits_into_no_full_project(node: Open, session: bool) -> None:
    app = node(AdmissionSection(quotas=(Quota("team", ByteSize(1000)),)))
    chunked = {"Content-Length": "", "Transfer-Encoding": "chunked"}
    content = b"x" * 3000
    place = "/v2/team/app/blobs/uploads/"
    if session:
        place = app.call("POST", place).headers["Location"]
        assert app.call("PATCH", place, content, chunked).status == 403
    method = "PUT" if session else "POST"
    digest = Digest.of(content)
    assert app.call(method, f"{place}?digest={digest}", content, chunked).status == 403
    assert app.call("HEAD", f"/v2/team/app/blobs/{digest}").status == 404
    small = Digest.of(b"small")
    assert app.call(method, f"{place}?digest={small}", b"small", chunked).status == 201


EVIL, OWN = "https://evil.example", "http://node.example"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Origin": OWN}, 202),
        ({"Origin": "https://node.example"}, 202),  # a proxy speaks TLS
        ({"Origin": EVIL}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://node.example.evil.example"}, 403),
        ({"Origin": EVIL, "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://other.node.example", "Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": EVIL, "Sec-Fetch-Site": "same-origin"}, 202),  # a proxy has changed Host
        ({"Sec-Fetch-Site": "none"}, 202),
    ],
)
def test_a_page_of_another_site_changes_nothing(
    node: Open, headers: dict[str, str], status: int
) -> None:
    app = node(AdmissionSection())
    client = "192.0.2.1"
    assert app.call("POST", "/v2/a/blobs/uploads/", b"", headers, client).status == status
    assert app.call("GET", "/v2/", b"", headers, client).status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("evil.example:5000", 403), ("127.0.0.1:5000", 202), ("[::1]:5000", 202), ("localhost", 202)],
)
def test_a_name_that_was_made_to_lead_here_changes_nothing(
    node: Open, host: str, status: int
) -> None:
    """DNS rebinding: for the browser the open node belongs to the page, and Origin equals Host."""
    app = node(AdmissionSection())
    headers = {"Host": host, "Origin": f"http://{host}"}
    assert app.call("POST", "/v2/a/blobs/uploads/", b"", headers).status == status
    assert app.call("POST", "/v2/a/blobs/uploads/", b"", {"Host": host}).status == 202


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[AccountStore]:
    opened = AccountStore(tmp_path / "new")
    yield opened
    opened.close()


def test_tokens_of_many_scopes_fill_no_memory(directory: AccountStore) -> None:
    """Below a public project there are as many names as somebody can think of."""
    Administration(directory, actor="test").add_project("open", public=True)
    tokens = Tokens(directory, Keys(directory), AccessSection())
    few, many = (
        [TokenScope("repository", f"open/{n}", PULL) for n in range(top)] for top in (3, 50)
    )
    for wanted in (few, many, [TokenScope("repository", "open/" + "x" * 9000, PULL)]):
        identity, _ = tokens.identify(tokens.issue(None, wanted).text, "192.0.2.1")
        assert identity.kind == "anonymous"
    assert len(tokens._verified_tokens) == 2 and not identity.may("pull", "open/" + "x" * 9000)


def test_a_new_data_directory_is_closed_to_other_users(
    tmp_path: Path, directory: AccountStore
) -> None:
    Storage(tmp_path / "other").close()
    for data in (directory.root.parent, tmp_path / "other"):
        assert data.stat().st_mode & 0o077 == 0


def test_an_immutable_tag_does_not_move_when_its_manifest_is_damaged(node: Open) -> None:
    app = node(AdmissionSection(immutable=(ImmutableRule(tags=(Glob("v*"),)),)))
    _, index, image = published(app, "team/app", "v1")
    file = app.storage.store.path(index.digest)
    raw, other = file.read_bytes(), Index.make([image, image])
    file.chmod(0o600)
    file.write_bytes(b"damaged")
    app.storage.cache.forget([("tag", "team/app", "v1")])
    assert app.pull("team/app", "v1").status == 404
    assert app.push("team/app", "v1", other.raw, other.media_type).status == 403
    assert app.push("team/app", "v1", raw, index.media_type).status == 201
    assert app.pull("team/app", "v1").status == 200


@pytest.mark.parametrize("immutable", [False, True])
def test_what_an_immutable_tag_names_keeps_its_media_type(node: Open, immutable: bool) -> None:
    """A manifest without `mediaType` is what its last push called it."""
    app = node(
        AdmissionSection(immutable=(ImmutableRule(tags=(Glob("v*"),)),) if immutable else ())
    )
    raw = b'{"schemaVersion": 2, "manifests": []}'
    assert app.push("team/app", "v1", raw, media.OCI_INDEX).status == 201
    for reference in ("v1", Digest.of(raw), "other"):
        status = app.push("team/app", str(reference), raw, media.DOCKER_INDEX).status
        assert status == (403 if immutable else 201), reference
    kind = app.pull("team/app", "v1").headers["Content-Type"]
    assert kind == (media.OCI_INDEX if immutable else media.DOCKER_INDEX)
    assert app.push("team/app", "other", raw, kind).status == 201


@pytest.mark.parametrize("immutable", [False, True])
def test_of_pushes_at_once_one_has_an_immutable_tag(node: Open, immutable: bool) -> None:
    """Between a look at the tag and the push of it nobody else gets in."""
    app = node(
        AdmissionSection(immutable=(ImmutableRule(tags=(Glob("v*"),)),) if immutable else ())
    )
    _, _, image = published(app, "team/app", "other")
    statuses: dict[str, int] = {}

    def push(number: int) -> None:
        index = Index.make([image], annotations={"number": str(number)})
        path = f"{index.descriptor.digest}?tag=v{number % 3}&tag=v1"
        answer = app.push("team/app", path, index.raw, index.media_type)
        statuses[str(index.descriptor.digest)] = answer.status

    threads = [threading.Thread(target=push, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses.values()) == ([201] + [403] * 23 if immutable else [201] * 24)
    holder = app.pull("team/app", "v1").headers["Docker-Content-Digest"]
    assert statuses[holder] == 201


@pytest.mark.parametrize("keys", [{}, {"release": "release.pub"}])
def test_a_policy_without_rules_is_not_taken_for_a_strict_one(keys: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="without rules"):
        AdmissionSection(signatures=TrustSection(keys=keys, default="reject"))
    rule = VulnerabilityRule(keys=("release",))
    named = TrustSection(keys={"release": "release.pub"})
    assert AdmissionSection(signatures=named, vulnerabilities=(rule,)).signatures == named


def test_asking_for_what_is_not_there_keeps_nothing_from_the_collector(node: Open) -> None:
    """Else who may read could fill the memory of touches: what is forgotten counts as touched."""
    app = node(AdmissionSection())
    published(app, "team/app", "v1")
    before = dict(app.storage.promises._times)
    for number in range(20):
        digest = Digest.of(str(number).encode())
        for kind in ("manifests", "blobs"):
            assert app.call("HEAD", f"/v2/team/app/{kind}/{digest}").status == 404
    assert app.storage.promises._times == before
