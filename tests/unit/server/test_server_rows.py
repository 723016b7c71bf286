"""Inputs that have broken registries and clients before, by the numbers of their list.

Row, bad input: where it is tested.
8   bytes that are not their digest: test_spec_blobs, test_spec_manifests, test_server_storage
9   malformed digests, unknown algorithms: test_spec_{pull,push,http}, test_server_inputs
10  names and tags outside the grammar, `..`, NUL: test_spec_{pull,manifests}, test_server_inputs
11  documents of two kinds, contradictions, keys twice: test_spec_manifests, test_oci_hostile, here
12  huge, deep and endless documents: test_spec_manifests, test_server_inputs, here
19  mounts of what one may not read: test_server_access_rows, test_server_attacks
20  what was revoked or deleted: test_server_access_rows, test_spec_blobs
21  overwriting with the right to create: test_server_access_rows
22  tokens for nobody, the catalogue: test_server_access_rows
23  scopes on every path: test_server_access_rows
24  tokens that mislead: test_server_access_jwt, test_server_access_rows
25  secrets that are told again, first passwords: test_server_access_rows
26  receivers of webhooks inside: test_server_hooks
27  signatures that are none: test_server_trust, the tests of supply
28  a tag that moves after it was verified: here
29  bytes that changed on the disk: test_server_storage, test_server_fsck
30  sessions of others, requests at once, late ones: test_server_access_rows, here
31  framing, floods of headers and ranges, slow clients: test_server_{inputs,limits}, here
32  chunks that overlap, leave gaps, lie about their length: test_spec_push, test_spec_blobs
33  digests of another algorithm than the session's: test_spec_{push,blobs}, test_server_storage
35  labels and variables with markup: test_server_page, test_server_page_odd
The others are about clients (tests/faults, test_registry_*).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attached import Repository, add_index
from node_app import NodeApp, NodeRepository
from shipline.content import copy_graph
from shipline.oci import Index, Reference, media
from shipline.server.admission.section import AdmissionSection
from shipline.server.fsck import CheckSummary, check
from shipline.server.gc import GcOptions, collect
from shipline.supply import ImagePattern, generate_key, sign
from shipline.trust import TrustRule, TrustSection
from shipline.units import Duration
from spec_client import LAYER, descriptor, sha256

EVERYTHING = GcOptions(every=None, grace=Duration(0), untagged=True)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[NodeApp]:
    opened = NodeApp(tmp_path)
    yield opened
    opened.close()


def put_index(app: NodeApp, *children: dict[str, Any], tag: str = "") -> dict[str, Any]:
    """Push an index to the repository `r`; its descriptor."""
    index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": list(children)}
    raw = json.dumps(index).encode()
    found = descriptor(raw, media.OCI_INDEX)
    assert app.push("r", tag or found["digest"], raw, media.OCI_INDEX).status == 201
    return found


def sound(app: NodeApp) -> bool:
    """After a collection that takes all it may."""
    app.now += 10
    app.storage.promises.assume_none()
    collect(app.storage, EVERYTHING)
    return [str(finding) for finding in check(app.storage, CheckSummary())] == []


@pytest.mark.parametrize("value", [None, True, 5, 1.5, "x", [], {}, [1], [None], {"a": 1}])
def test_row_11_ill_typed_fields_are_never_our_failure(app: NodeApp, value: Any) -> None:
    blob = b"{}"
    app.call("POST", f"/v2/r/blobs/uploads/?digest={sha256(blob)}", blob)
    config = descriptor(blob, media.OCI_CONFIG)
    image = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": config, "layers": []}
    parts = (*config, "urls", "data", "platform", "annotations", "artifactType")
    documents = [image | {key: value} for key in (*image, "subject", "manifests", "annotations")]
    documents += [image | {"config": config | {part: value}} for part in parts]
    for document in documents:
        for said in (media.OCI_MANIFEST, ""):
            answer = app.push("r", "v1", json.dumps(document).encode(), said)
            assert answer.status in (201, 400), document


def test_row_12_too_many_entries_are_refused(app: NodeApp) -> None:
    index = {"schemaVersion": 2, "manifests": [descriptor(b"x", LAYER)] * 20_000}
    raw = json.dumps(index).encode()
    assert app.push("r", "v1", raw, media.OCI_INDEX).status == 400


def test_row_12_deep_values_are_refused(app: NodeApp) -> None:
    raw = b'{"schemaVersion":2,"manifests":[],"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    assert app.push("r", "v1", raw, media.OCI_INDEX).status == 400


def test_row_12_a_long_chain_of_indexes_is_an_image_like_any_other(app: NodeApp) -> None:
    top = put_index(app)
    for _ in range(300):
        top = put_index(app, top)
    put_index(app, top, tag="v1")
    assert app.pull("r", "v1").status == 200
    assert app.call("GET", "/r/r:v1").status == 200
    assert sound(app)
    assert app.pull("r", top["digest"]).status == 200


def test_row_12_indexes_that_name_each_other_twice_are_walked_once(app: NodeApp) -> None:
    top = put_index(app)
    for _ in range(40):
        top = put_index(app, top, {**top, "annotations": {"again": "yes"}})
    put_index(app, top, tag="v1")
    assert app.call("GET", "/r/r:v1").status == 200  # 2^40 steps would not end
    assert sound(app)
    assert app.pull("r", "v1").status == 200


def test_row_12_a_cache_of_layers_stays_whole(app: NodeApp) -> None:
    layer = b"a layer that only an index names"
    app.call("POST", f"/v2/r/blobs/uploads/?digest={sha256(layer)}", layer)
    put_index(app, descriptor(layer, LAYER), tag="cache")
    assert sound(app)
    assert app.call("GET", f"/v2/r/blobs/{sha256(layer)}").body == layer
    assert app.call("DELETE", f"/v2/r/blobs/{sha256(layer)}").status == 405


def test_row_28_a_verdict_is_about_a_digest_and_never_about_a_tag(tmp_path: Path) -> None:
    key = generate_key("release")
    (tmp_path / "release.pub").write_bytes(key.public.pem)
    rule = TrustRule(images=(ImagePattern.parse("team/*"),))
    assume_none = TrustSection((rule,), {"release": "release.pub"}, default="accept")
    app = NodeApp(tmp_path, AdmissionSection(signatures=assume_none))
    try:
        goal, signed = published(app, "signed")
        name = Reference("registry.example", "team/app", "v1")
        sign(goal, signed.descriptor, name, [key], recursive=False)
        assert app.pull("team/app", "v1").status == 200
        _, other = published(app, "not signed")
        assert app.pull("team/app", "v1").status == 403
        assert app.pull("team/app", other.descriptor.digest).status == 403
        assert app.pull("team/app", signed.descriptor.digest).status == 200
    finally:
        app.close()


def published(app: NodeApp, seed: str) -> tuple[NodeRepository, Index]:
    """An index under team/app:v1, another one for each `seed`."""
    source, goal = Repository(), app.repository("team/app")
    children = add_index(source).manifests
    index = Index.make(children, annotations={"seed": seed})
    source.blobs[index.descriptor.digest] = index.raw
    copy_graph(source, goal, index.descriptor)
    goal.tag(index.descriptor, source, "v1")
    return goal, index


def test_row_30_requests_at_once_fill_a_session_one_after_the_other(app: NodeApp) -> None:
    start = app.call("POST", "/v2/r/blobs/uploads/")
    place, size = start.headers["Location"], 300_000
    contents = [bytes([number]) * size for number in range(4)]
    threads = [
        threading.Thread(target=app.call, args=("PATCH", place, content)) for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert app.call("GET", place).headers["Range"] == f"0-{4 * size - 1}"
    held = (app.storage.incoming / place.rpartition("/")[2]).read_bytes()
    assert sorted(held[first : first + size] for first in range(0, 4 * size, size)) == contents


def test_row_30_a_session_that_expired_is_unknown(app: NodeApp) -> None:
    place = app.call("POST", "/v2/r/blobs/uploads/").headers["Location"]
    app.now = time.time() + 100_000
    assert app.node.uploads.expire(60) == 1
    assert app.call("PATCH", place, b"late").status == 404


@pytest.mark.parametrize(
    ("span", "status"),
    [
        ("bytes=" + ",".join(["0-"] * 1000), 200),
        ("bytes=0-0,2-2", 200),
        ("bytes=-" + "9" * 60, 206),
        ("bytes=" + "9" * 60 + "-", 416),
        ("bytes=3-1", 416),
    ],
)
def test_row_31_ranges_that_ask_for_too_much(app: NodeApp, span: str, status: int) -> None:
    app.call("POST", f"/v2/r/blobs/uploads/?digest={sha256(b'content')}", b"content")
    answer = app.call("GET", f"/v2/r/blobs/{sha256(b'content')}", headers={"Range": span})
    assert answer.status == status
    assert status == 416 or answer.body == b"content"
