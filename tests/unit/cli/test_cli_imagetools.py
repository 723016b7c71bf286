"""imagetools: what is in a registry is shown exactly, and combined without a change."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from commands import run_shipline
from nodes import node
from shipline.cli.imagetools import _combined, _NewImage
from shipline.cli.inspection import Inspection, describe, inspect_image
from shipline.cli.template import render
from shipline.content import MemoryStore, copy_graph
from shipline.errors import NotFound
from shipline.oci import (
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Part,
    Platform,
    Reference,
    combine,
    media,
    parse_manifest,
)
from shipline.values import replace

AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64")


def add_image(store: MemoryStore, platform: Platform, tag: str) -> Manifest:
    config = ImageConfig(platform).set(Env=["A=1"]).to_bytes()
    manifest = Manifest.make(Descriptor.of(config, media.OCI_CONFIG), [])
    copy_graph(MemoryStore(config, manifest.raw), store, manifest.descriptor)
    store.tag(manifest.descriptor, MemoryStore(manifest.raw), tag)
    return manifest


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    parts = [Part(add_image(store, one, one.architecture), one) for one in (AMD, ARM)]
    index = combine(parts)
    store.tag(index.descriptor, MemoryStore(index.raw), "latest")
    return store


def find(store: MemoryStore, tag: str) -> Inspection:
    return inspect_image(store, Reference.parse(f"h:5000/a:{tag}"))


def test_an_index_is_described_with_its_platforms(store: MemoryStore) -> None:
    found = find(store, "latest")
    lines = describe(found).splitlines()
    assert lines[:5] == [
        "Name:      h:5000/a:latest",
        f"MediaType: {media.OCI_INDEX}",
        f"Digest:    {found.descriptor.digest}",
        " " * 11,
        "Manifests: ",
    ]
    assert lines.count("  Platform:  linux/arm64") == 1
    assert sum(line.startswith("  Name:      h:5000/a:latest@sha256:") for line in lines) == 2


def test_one_image_is_described_in_three_lines(store: MemoryStore) -> None:
    assert len(describe(find(store, "amd64")).splitlines()) == 3


def test_templates_reach_the_configuration_of_each_platform(store: MemoryStore) -> None:
    index, image = find(store, "latest").fields(), find(store, "arm64").fields()
    one = json.loads(render('{{json (index .Image "linux/arm64")}}', index))
    assert one == json.loads(render("{{json .Image}}", image))
    assert one["architecture"] == "arm64"
    assert render("{{.Manifest.Digest}}", index) == str(find(store, "latest").descriptor.digest)
    assert len(json.loads(render("{{json .Manifest}}", index))["manifests"]) == 2


def test_a_missing_name_is_not_found(store: MemoryStore) -> None:
    with pytest.raises(NotFound):
        find(store, "nothing")


def test_one_index_keeps_its_bytes(store: MemoryStore) -> None:
    found = find(store, "latest")
    assert _combined([found], [], True) == _NewImage(found.document.raw, found.descriptor)


def test_images_are_combined_with_their_platforms(store: MemoryStore) -> None:
    new = _combined([find(store, "amd64"), find(store, "arm64")], [], True)
    document = parse_manifest(new.raw, new.target.media_type)
    assert isinstance(document, Index)
    assert [one.platform for one in document.manifests] == [AMD, ARM]


def test_one_image_becomes_an_index_only_where_that_is_preferred(store: MemoryStore) -> None:
    one = find(store, "amd64")
    assert _combined([one], [], True).target.media_type == media.OCI_INDEX
    assert _combined([one], [], False) == _NewImage(one.document.raw, one.descriptor)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """HOST:PORT of our own node."""
    with node(tmp_path / "data") as running:
        yield running.address


def test_images_are_combined_and_read_back_over_the_network(
    registry: str, store: MemoryStore
) -> None:
    from shipline.registry import Client

    with Client() as client:
        for tag in ("amd64", "arm64"):
            repository = client.repository(Reference.parse(f"{registry}/{tag}"))
            target = store.resolve(tag)
            copy_graph(store, repository, target)
            repository.tag(target, store, tag)
    name, sources = f"{registry}/team/all:1", (f"{registry}/amd64:amd64", f"{registry}/arm64:arm64")
    dry = run_shipline("imagetools", "create", "--dry-run", "-t", name, *sources)
    assert run_shipline("imagetools", "inspect", name).returncode == 8
    words = ("imagetools", "create", "--dry-run", "--prefer-index=false", sources[0])
    assert '"layers"' in run_shipline(*words).stdout
    first = run_shipline("imagetools", "create", "-t", name, sources[0])
    assert first.returncode == 0, first.stderr
    added = run_shipline("imagetools", "create", "--append", "-t", name, sources[1])
    assert added.returncode == 0, added.stderr
    raw = run_shipline("imagetools", "inspect", "--raw", name).stdout
    assert raw + "\n" == dry.stdout
    assert raw.startswith('{\n  "schemaVersion": 2,\n  "mediaType": ')
    seen = run_shipline("imagetools", "inspect", "--format", "{{.Manifest.Digest}}", name).stdout
    assert seen.strip() == str(Descriptor.of(raw.encode(), media.OCI_INDEX).digest)


def test_statements_in_envelopes_are_shown(store: MemoryStore) -> None:
    image = store.resolve("amd64")
    type_ = "https://slsa.dev/provenance/v1"
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": type_,
        "subject": [{"name": "a", "digest": {"sha256": image.digest.hex}}],
        "predicate": {"builder": "b"},
    }
    payload = base64.b64encode(json.dumps(statement).encode()).decode()
    envelope = json.dumps({"payload": payload}).encode()
    layer = replace(
        Descriptor.of(envelope, "application/vnd.in-toto.provenance+dsse"),
        annotations={"in-toto.io/predicate-type": type_},
    )
    stated = Manifest.make(Descriptor.of(b"{}", media.OCI_EMPTY), [layer])
    about = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": str(image.digest),
    }
    entry = replace(stated.descriptor, annotations=about, platform=Platform("unknown", "unknown"))
    index = Index.make([replace(image, platform=AMD), entry])
    copy_graph(MemoryStore(b"{}", envelope, stated.raw), store, stated.descriptor)
    store.tag(index.descriptor, MemoryStore(index.raw), "stated")
    shown = render("{{json .Provenance}}", find(store, "stated").fields())
    assert json.loads(shown) == {"SLSA": {"builder": "b"}}


def test_attestations_are_combined_with_their_signatures(registry: str, store: MemoryStore) -> None:
    from shipline.registry import Client

    image = store.resolve("amd64")
    empty = Descriptor.of(b"{}", media.OCI_EMPTY)
    about = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": str(image.digest),
    }
    stated = Manifest.make(empty, [empty])
    attested = replace(
        stated.descriptor, annotations=about, platform=Platform("unknown", "unknown")
    )
    signed = Manifest.make(empty, [empty], subject=stated.descriptor, artifact_type="a/signature")
    parts = [Part(add_image(store, AMD, "signed"), AMD)]
    index = combine(parts)
    document = json.loads(index.raw)
    document["manifests"].append(attested.to_json())
    listed = parse_manifest(json.dumps(document).encode())
    with Client() as client:
        repository = client.repository(Reference.parse(f"{registry}/signed/from"))
        copy_graph(store, repository, image)
        documents = MemoryStore(b"{}", stated.raw, signed.raw, listed.raw)
        for one in (stated, signed):
            copy_graph(documents, repository, one.descriptor)
        repository.tag(listed.descriptor, documents, "1")
        source = f"{registry}/signed/from:1"
        for number, words in enumerate(((), ("--platform", "linux/amd64"))):
            name = f"{registry}/signed/to-{number}:1"
            done = run_shipline("imagetools", "create", *words, "-t", name, source)
            assert done.returncode == 0, done.stderr
            there = client.repository(Reference.parse(name))
            assert [one.digest for one in there.referrers(stated.descriptor)] == [
                signed.descriptor.digest
            ]


def test_images_that_are_appended_at_once_are_all_kept(registry: str) -> None:
    from shipline.registry import Client

    platforms = [Platform("linux", f"arch{number}") for number in range(6)]
    name = Reference.parse(f"{registry}/team/all:1")
    local = MemoryStore()
    with Client() as client:
        repository = client.repository(name)
        for platform in platforms:
            image = add_image(local, platform, platform.architecture).descriptor
            copy_graph(local, repository, image)
            repository.tag(image, local, platform.architecture)
    append = ("imagetools", "create", "--append", "-t", str(name))
    sources = [f"{name.name}:{platform.architecture}" for platform in platforms]
    with ThreadPoolExecutor(len(platforms)) as pool:
        for done in pool.map(lambda source: run_shipline(*append, source), sources):
            assert done.returncode == 0, done.stderr
    index = json.loads(run_shipline("imagetools", "inspect", "--raw", str(name)).stdout)
    kept = {one["platform"]["architecture"] for one in index["manifests"]}
    assert kept == {platform.architecture for platform in platforms}


def test_a_source_may_be_a_descriptor_or_a_digest_whose_platform_and_annotations_count(
    registry: str, store: MemoryStore, tmp_path: Path
) -> None:
    from shipline.registry import Client

    with Client() as client:
        for tag in ("amd64", "arm64"):
            repository = client.repository(Reference.parse(f"{registry}/team/all"))
            copy_graph(store, repository, store.resolve(tag))
            repository.tag(store.resolve(tag), store, tag)
    amd, arm = store.resolve("amd64"), store.resolve("arm64")
    given = {
        **amd.to_json(),
        "annotations": {"a": "b"},
        "platform": {"os": "x", "architecture": "y"},
        "artifactType": "a/type",
        "urls": ["https://host.example/blob"],
    }
    (tmp_path / "source").write_text(json.dumps(given))
    name, facts = f"{registry}/team/all:1", tmp_path / "facts"
    words = ("imagetools", "create", "-t", name, "--metadata-file", facts)
    done = run_shipline(*words, "-f", tmp_path / "source", str(arm.digest))
    assert done.returncode == 0, done.stderr
    entries = json.loads(run_shipline("imagetools", "inspect", "--raw", name).stdout)["manifests"]
    assert entries[0] == given
    assert (entries[1]["digest"], entries[1]["platform"]) == (str(arm.digest), ARM.to_json())
    partial = json.dumps({**arm.to_json(), "platform": {"os": "x"}})
    done = run_shipline("imagetools", "create", "--dry-run", "-t", name, partial)
    assert json.loads(done.stdout)["manifests"][0]["platform"] == {**ARM.to_json(), "os": "x"}
    untyped = ("--annotation", "a=b", "--annotation", "manifest-descriptor:c=d")
    done = run_shipline("imagetools", "create", "-t", f"{registry}/team/all:2", *untyped, name)
    assert done.returncode == 0, done.stderr
    raw = run_shipline("imagetools", "inspect", "--raw", f"{registry}/team/all:2").stdout
    assert json.loads(raw)["annotations"] == {"a": "b"}
    refused = run_shipline("imagetools", "create", "-t", name, "--annotation", "manifest:a=b", name)
    assert refused.returncode == 2
    written = json.loads(facts.read_text())
    assert written["image.name"] == name
    assert written["containerimage.descriptor"]["digest"] == written["containerimage.digest"]
    other = f"{registry}/other/one:1"
    done = run_shipline("imagetools", "create", "-p", "linux/arm64", "-t", other, name)
    assert done.returncode == 0, done.stderr
    kept = json.loads(run_shipline("imagetools", "inspect", "--raw", other).stdout)["manifests"]
    assert kept == entries[1:]
    unclear = run_shipline("imagetools", "create", "-t", other, name, str(arm.digest))
    assert (unclear.returncode, "is not clear" in unclear.stderr) == (2, True)
