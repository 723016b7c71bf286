"""Every kind of document from its push to its end: end-7, end-8, end-3, end-12, then end-9."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from spec_client import CONFIG, EMPTY, INDEX, LAYER, MANIFEST, OCTETS, Target, descriptor, to_json
from spec_client import digest_of as digest

pytest_plugins = ("spec_targets",)

KIND = "application/vnd.example.kind.v1"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
ELSEWHERE = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
NOTES = {"org.example.note": "kept as it is"}
Document = dict[str, Any]


@dataclass
class Shelf:
    """What a test pushes, in order; digests are of `algorithm`."""

    target: Target
    algorithm: str = "sha256"
    blobs: dict[str, bytes] = field(default_factory=dict)
    documents: list[Document] = field(default_factory=list)

    def blob(self, content: bytes, media_type: str, *, embedded: bool = False) -> Document:
        found = self.described(content, media_type)
        self.blobs[found["digest"]] = content
        if embedded:
            found["data"] = base64.b64encode(content).decode()
        return found

    def described(self, content: bytes, media_type: str) -> Document:
        found = descriptor(content, media_type)
        return {**found, "digest": digest(content, self.algorithm)}

    def add(self, document: Document) -> Document:
        """The descriptor of a document that will be pushed."""
        self.documents.append(document)
        return self.described(to_json(document), document.get("mediaType", MANIFEST))

    def image(self, seed: str, layers: int = 2, *, embedded: bool = False, **more: Any) -> Document:
        contents = [f"layer {number} of {seed}".encode() for number in range(layers)]
        found = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(f'{{"seed":"{seed}"}}'.encode(), CONFIG, embedded=embedded),
            "layers": [self.blob(content, LAYER, embedded=embedded) for content in contents],
        }
        return self.add({**found, **more})

    def artifact(self, seed: str, **more: Any) -> Document:
        found = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": KIND,
            "config": self.blob(b"{}", EMPTY),
            "layers": [self.blob(seed.encode(), KIND)],
        }
        return self.add({**found, **more})

    def index(self, *manifests: Document, **more: Any) -> Document:
        found = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests)}
        return self.add({**found, **more})

    def push_blobs(self) -> None:
        for name, content in self.blobs.items():
            answer = self.target.call("POST", f"blobs/uploads/?digest={name}", content, OCTETS)
            if answer.status == 202:  # may want a PUT
                place = f"{answer['Location']}"
                place += ("&" if "?" in place else "?") + f"digest={name}"
                answer = self.target.call("PUT", place, content, OCTETS)
            assert answer.status == 201, answer


def platforms(shelf: Shelf, make: Callable[..., Document], **more: Any) -> list[Document]:
    return [
        {**make(f"{name}", **more), "platform": {"os": "linux", "architecture": name}}
        for name in ("amd64", "arm64")
    ]


def image(shelf: Shelf) -> None:
    shelf.image("plain")


def image_without_layers(shelf: Shelf) -> None:
    shelf.image("no layers", 0)


def image_with_layers_elsewhere(shelf: Shelf) -> None:
    away = descriptor(b"not here", ELSEWHERE)
    here = shelf.blob(b"here", LAYER)
    shelf.image("elsewhere", layers=0)
    shelf.documents[-1]["layers"] = [{**away, "urls": ["https://layers.example/1"]}, here]


def image_with_embedded_data(shelf: Shelf) -> None:
    shelf.image("embedded", embedded=True)


def large_manifest(shelf: Shelf) -> None:
    shelf.image("large", annotations={f"n{number}": "A" * 10_000 for number in range(390)})


def index_of_platforms(shelf: Shelf) -> None:
    shelf.index(*platforms(shelf, shelf.image))


def index_of_indexes(shelf: Shelf) -> None:
    first = shelf.index(*platforms(shelf, shelf.image), annotations={"number": "1"})
    shelf.index(first, shelf.index(shelf.image("another")))


def index_of_nothing(shelf: Shelf) -> None:
    shelf.index()


def index_with_unknown_fields(shelf: Shelf) -> None:
    unknown = {"org.example.unknown": {"deep": [1, 2.5, None, "text"]}, "zz": ""}
    shelf.index(*platforms(shelf, shelf.image, **unknown), **unknown)


def index_of_layers(shelf: Shelf) -> None:
    """What BuildKit writes where a cache is kept in a registry."""
    config = shelf.blob(b"[]", "application/vnd.buildkit.cacheconfig.v0")
    shelf.index(shelf.blob(b"a layer", LAYER), config)


def artifact(shelf: Shelf) -> None:
    shelf.artifact("artifact")


def artifact_without_layers(shelf: Shelf) -> None:
    shelf.artifact("", layers=[shelf.blob(b"{}", EMPTY)])


def index_of_artifacts(shelf: Shelf) -> None:
    shelf.index(*platforms(shelf, shelf.artifact), artifactType=KIND)


def artifacts_with_subject(shelf: Shelf) -> None:
    subject = shelf.image("subject")
    shelf.image("by config", subject=subject)
    shelf.artifact("by type", subject=subject, annotations=NOTES)
    shelf.artifact("another type", subject=subject, artifactType=KIND + ".2")


def index_with_subject(shelf: Shelf) -> None:
    subject = shelf.index(*platforms(shelf, shelf.image))
    children = platforms(shelf, shelf.artifact)
    shelf.index(*children, subject=subject, artifactType=KIND, annotations=NOTES)


def subject_that_is_missing(shelf: Shelf) -> None:
    shelf.artifact("early", subject=shelf.described(b"never pushed", MANIFEST), annotations=NOTES)


def docker_image(shelf: Shelf) -> None:
    config = shelf.blob(b'{"docker":1}', DOCKER_CONFIG)
    layers = [shelf.blob(b"layer of docker", DOCKER_LAYER)]
    found = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": layers}
    shelf.add(found)


def docker_list(shelf: Shelf) -> None:
    docker_image(shelf)
    entry = shelf.described(to_json(shelf.documents[-1]), DOCKER_MANIFEST)
    entry["platform"] = {"os": "linux", "architecture": "amd64"}
    shelf.add({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [entry]})


KINDS = [
    image,
    image_without_layers,
    image_with_layers_elsewhere,
    image_with_embedded_data,
    large_manifest,
    index_of_platforms,
    index_of_indexes,
    index_of_nothing,
    index_of_layers,
    index_with_unknown_fields,
    artifact,
    artifact_without_layers,
    index_of_artifacts,
    artifacts_with_subject,
    index_with_subject,
    subject_that_is_missing,
    docker_image,
    docker_list,
]
ACCEPT = ", ".join((INDEX, MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))


def described_as_referrer(shelf: Shelf, document: Document) -> Document:
    """What end-12 must say about a document with a subject."""
    found = shelf.described(to_json(document), document["mediaType"])
    kind = document.get("artifactType") or document.get("config", {}).get("mediaType")
    if kind:
        found["artifactType"] = kind
    if document.get("annotations"):
        found["annotations"] = document["annotations"]
    return found


def check_referrers(shelf: Shelf) -> None:
    expected: dict[str, list[Document]] = {}
    for document in shelf.documents:
        if subject := document.get("subject"):
            found = described_as_referrer(shelf, document)
            expected.setdefault(subject["digest"], []).append(found)
    for subject, entries in expected.items():
        answer = shelf.target.call("GET", f"referrers/{subject}")
        assert (answer.status, answer["Content-Type"]) == (200, INDEX)
        assert in_order(answer.json["manifests"]) == in_order(entries)
        for kind in {entry["artifactType"] for entry in entries}:
            answer = shelf.target.call("GET", f"referrers/{subject}?artifactType={kind}")
            assert answer["OCI-Filters-Applied"] == "artifactType"
            wanted = [entry for entry in entries if entry["artifactType"] == kind]
            assert in_order(answer.json["manifests"]) == in_order(wanted)


def in_order(entries: list[Document]) -> list[Document]:
    return sorted(entries, key=lambda entry: str(entry["digest"]))


def push(shelf: Shelf, *, tags_by_query: bool = False) -> dict[str, bytes]:
    """Push everything, each document under a tag of its own; what each reference must give."""
    shelf.push_blobs()
    expected: dict[str, bytes] = {}
    for number, document in enumerate(shelf.documents):
        raw, tag = to_json(document), f"tag-{number}"
        name = digest(raw, shelf.algorithm)
        query = f"?tag={tag}" if tags_by_query else ""
        for reference in (name + query,) if tags_by_query else (name, tag):
            headers = {"Content-Type": document["mediaType"]}
            answer = shelf.target.call("PUT", f"manifests/{reference}", raw, headers)
            assert answer.status == 201, answer
            assert answer["Docker-Content-Digest"] == name
            assert answer["OCI-Tag"] == (tag if tags_by_query else None)
            assert answer["OCI-Subject"] == document.get("subject", {}).get("digest")
            assert shelf.target.call("GET", f"{answer['Location']}", headers=accept()).body == raw
        expected |= {name: raw, tag: raw}
    return expected


def accept() -> dict[str, str]:
    return {"Accept": ACCEPT}


def check_pulls(shelf: Shelf, expected: dict[str, bytes]) -> None:
    kinds = {to_json(document): document["mediaType"] for document in shelf.documents}
    for reference, raw in expected.items():
        for method in ("HEAD", "GET"):
            answer = shelf.target.call(method, f"manifests/{reference}", headers=accept())
            assert answer.status == 200
            assert answer.body == (raw if method == "GET" else b"")
            assert answer["Content-Type"] == kinds[raw]
            assert answer["Content-Length"] == str(len(raw))
            assert answer["Docker-Content-Digest"] == digest(raw, shelf.algorithm)
    for name, content in shelf.blobs.items():
        assert shelf.target.call("GET", f"blobs/{name}").body == content


def check_deletes(shelf: Shelf, expected: dict[str, bytes]) -> None:
    """Documents from the last to the first, with their tags, then blobs; gone is gone."""
    delete_all(shelf)
    for reference in expected:
        assert shelf.target.call("HEAD", f"manifests/{reference}").status == 404
    for name in shelf.blobs:
        assert shelf.target.call("HEAD", f"blobs/{name}").status == 404
        assert shelf.target.call("DELETE", f"blobs/{name}").status == 404
    assert (shelf.target.call("GET", "tags/list").json["tags"] or []) == []


def delete_all(shelf: Shelf) -> None:
    for document in reversed(shelf.documents):
        place = f"manifests/{digest(to_json(document), shelf.algorithm)}"
        assert shelf.target.call("DELETE", place).status == 202
        assert shelf.target.call("DELETE", place).status == 404
    for name in shelf.blobs:
        assert shelf.target.call("DELETE", f"blobs/{name}").status == 202


def live(shelf: Shelf, *, tags_by_query: bool = False) -> None:
    expected = push(shelf, tags_by_query=tags_by_query)
    tags = sorted(reference for reference in expected if ":" not in reference)
    assert sorted(shelf.target.call("GET", "tags/list").json["tags"]) == tags
    check_pulls(shelf, expected)
    check_referrers(shelf)
    check_deletes(shelf, expected)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_document_lives_from_push_to_delete(target: Target, kind: Callable[[Shelf], None]) -> None:
    shelf = Shelf(target)
    kind(shelf)
    live(shelf)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize(
    "kind", [index_of_platforms, index_with_subject], ids=lambda kind: kind.__name__
)
def test_end_7b_document_lives_with_tags_of_the_query(
    target: Target, kind: Callable[[Shelf], None], algorithm: str
) -> None:
    """With sha512 in every descriptor: config, layers, children and subject."""
    shelf = Shelf(target, algorithm)
    kind(shelf)
    live(shelf, tags_by_query=True)


@pytest.mark.parametrize("kind", [image, index_of_platforms], ids=lambda kind: kind.__name__)
def test_what_was_deleted_can_be_pushed_again(
    target: Target, kind: Callable[[Shelf], None]
) -> None:
    shelf = Shelf(target)
    kind(shelf)
    check_pulls(shelf, push(shelf))
    check_pulls(shelf, push(shelf))
    delete_all(shelf)
    check_pulls(shelf, push(shelf))


def test_end_12a_lists_what_an_older_client_put_into_a_referrers_tag(target: Target) -> None:
    """What clients keep in the tag `sha256-<hex>` where a registry has no API for referrers."""
    shelf = Shelf(target)
    subject = shelf.image("subject")
    referrer = shelf.artifact("older", subject=subject, annotations=NOTES)
    shelf.index({**referrer, "artifactType": KIND, "annotations": NOTES})
    push(shelf)
    tag = subject["digest"].replace(":", "-")
    fallback = to_json(shelf.documents[-1])
    answer = target.call("PUT", f"manifests/{tag}", fallback, {"Content-Type": INDEX})
    assert answer.status == 201
    check_referrers(shelf)
