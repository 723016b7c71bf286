"""imagetools inspect --format beside buildx, byte for byte, on images of every kind."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nodes import node
from peers.docker import newest
from shipline.cli.inspection import describe, inspect_image
from shipline.cli.template import render
from shipline.content import MemoryStore, copy_graph
from shipline.errors import UsageError
from shipline.oci import Descriptor, Reference, media
from shipline.registry import Client

pytestmark = pytest.mark.peers

DOCKER = "application/vnd.docker."
LIST, SINGLE = (
    f"{DOCKER}distribution.manifest.list.v2+json",
    f"{DOCKER}distribution.manifest.v2+json",
)
CONFIG = f"{DOCKER}container.image.v1+json"
SLSA, SPDX = "https://slsa.dev/provenance/v1", "https://spdx.dev/Document"
FULL = {
    "created": "2024-01-02T03:04:05.120Z",
    "author": "A <a@b>",
    "config": {
        "User": "1:2",
        "ExposedPorts": {"80/tcp": {}, "443/tcp": {}},
        "Env": ["A=1", "B=<2>"],
        "Entrypoint": ["/a", "b"],
        "Cmd": ["c"],
        "Volumes": {"/v": {}},
        "WorkingDir": "/w",
        "Labels": {"b": "2", "a.b": "1", "Key": "v"},
        "StopSignal": "SIGINT",
        "Healthcheck": {"Test": ["CMD", "x"]},
        "OnBuild": ["RUN x"],
    },
    "history": [
        {"created": "2024-01-02T03:04:05+02:00", "created_by": "RUN x", "comment": "c"},
        {"created_by": "ENV A=1", "empty_layer": True, "author": "b"},
    ],
}


def put(store: MemoryStore, document: object, kind: str, **more: Any) -> dict[str, Any]:
    """The descriptor of a document that is put into the store."""
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    descriptor = Descriptor.of(raw, kind)
    store.push(descriptor, MemoryStore(raw))
    return {**descriptor.to_json(), **more}


def image(
    store: MemoryStore,
    machine: Mapping[str, str],
    config: Mapping[str, Any],
    kinds: tuple[str, str] = (media.OCI_MANIFEST, media.OCI_CONFIG),
    **more: Any,
) -> dict[str, Any]:
    layer = put(store, b"layer", media.OCI_LAYER)
    rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
    document = {**machine, "rootfs": rootfs, **config}
    manifest = {
        "schemaVersion": 2,
        "mediaType": kinds[0],
        "config": put(store, document, kinds[1]),
        "layers": [layer],
    }
    return put(store, manifest, kinds[0], **more)


def attestations(store: MemoryStore, about: str) -> dict[str, Any]:
    """The entry of an index with two lists of packages and a provenance about an image."""

    def statement(kind: str, predicate: object) -> dict[str, Any]:
        document = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "a", "digest": {"sha256": "0" * 64}}],
            "predicateType": kind,
            "predicate": predicate,
        }
        notes = {"in-toto.io/predicate-type": kind}
        return put(store, document, "application/vnd.in-toto+json", annotations=notes)

    layers = [
        statement(SPDX, {"name": "one", "packages": [{"name": "p", "x": 1.5}]}),
        statement(SPDX, {"name": "two"}),
        statement(SLSA, {"runDetails": {"builder": {"id": "b"}, "n": 3}, "buildDefinition": {}}),
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": put(store, {"architecture": "unknown", "os": "unknown"}, media.OCI_CONFIG),
        "layers": layers,
    }
    notes = {
        "vnd.docker.reference.digest": about,
        "vnd.docker.reference.type": "attestation-manifest",
    }
    platform = {"architecture": "unknown", "os": "unknown"}
    return put(store, manifest, media.OCI_MANIFEST, annotations=notes, platform=platform)


def index(entries: list[dict[str, Any]], kind: str = media.OCI_INDEX, **more: Any) -> Any:
    return {"schemaVersion": 2, "mediaType": kind, "manifests": entries, **more}


AMD = {"architecture": "amd64", "os": "linux"}
ARM = {"architecture": "arm64", "os": "linux", "variant": "v8"}
WINDOWS = {"architecture": "amd64", "os": "windows", "os.version": "10.0.1"}


def images(store: MemoryStore) -> dict[str, dict[str, Any]]:
    """The descriptors of all kinds of images, by tag."""
    amd = image(store, AMD, FULL, platform=AMD)
    arm = image(store, ARM, {"config": {}}, platform=ARM)
    windows = image(store, WINDOWS, FULL, platform=WINDOWS)
    plain = {key: arm[key] for key in ("mediaType", "digest", "size")}
    docker = [image(store, one, FULL, (SINGLE, CONFIG), platform=one) for one in (AMD, ARM)]
    notes: dict[str, Any] = {"annotations": {"b": "<1>", "a": "2"}}
    listed = {**arm, **notes}
    both = index([amd, listed, *(attestations(store, one["digest"]) for one in (amd, arm))])
    return {
        "one": image(store, AMD, FULL),
        "bare": image(store, ARM, {"config": {}}),
        "index": put(store, index([amd, listed, windows], **notes), media.OCI_INDEX),
        "attested": put(store, both, media.OCI_INDEX),
        "single": put(store, index([arm, attestations(store, arm["digest"])]), media.OCI_INDEX),
        "unnamed": put(store, index([plain]), media.OCI_INDEX),
        "list": put(store, index(docker, LIST), LIST),
        "docker": image(store, AMD, FULL, (SINGLE, CONFIG)),
    }


EVERY = [
    "{{.Name}} {{len .Name}}",
    "{{json .}}",
    "{{json .Manifest}}",
    "{{json .Image}}",
    "{{json .SBOM}}",
    "{{json .Provenance}}",
    "{{.Manifest.MediaType}} {{.Manifest.Digest}} {{.Manifest.Size}}",
    "{{.Manifest.Digest.Algorithm}} {{.Manifest.Digest.Encoded}} {{.Manifest.Digest.Hex}}",
    "{{.Manifest.Annotations}} {{.Manifest.Annotations.x}} {{index .Manifest.Annotations `x`}}|",
    "{{if .Image}}yes{{else}}no{{end}} {{with .SBOM}}{{.}}{{end}}",
    "{{printf `%T` .Name}} {{json .Manifest.Annotations}}",
]
ONE = [
    "{{.Image}}",
    "{{.Image.Created}}",
    "{{.Image.Platform}} {{.Image.OS}}/{{.Image.Architecture}}/{{.Image.Variant}}",
    "{{.Image.OSVersion}}|{{.Image.OSFeatures}}|{{.Image.Author}}|",
    "{{json .Image.Platform}}",
    "{{.Image.Platform.OS}} {{.Image.Platform.Architecture}} {{len .Image.Platform.OSFeatures}}",
    "{{.Image.Config}}",
    "{{json .Image.Config}}",
    "{{.Image.Config.Labels}} {{len .Image.Config.Labels}} {{json .Image.Config.Labels}}",
    "{{.Image.Config.Labels.Key}} {{.Image.Config.Labels.key}} {{.Image.Config.Labels.none}}",
    "{{index .Image.Config.Labels `a.b`}}|{{index .Image.Config.Labels `none`}}|",
    "{{range $k, $v := .Image.Config.Labels}}{{$k}}={{$v}},{{else}}none{{end}}",
    "{{.Image.Config.ExposedPorts}} {{.Image.Config.Volumes}} {{json .Image.Config.Volumes}}",
    "{{range $k, $v := .Image.Config.ExposedPorts}}{{$k}}{{$v}},{{end}}",
    "{{index .Image.Config.ExposedPorts `1/tcp`}}",
    "{{.Image.Config.Env}} {{len .Image.Config.Env}} {{json .Image.Config.Env}}",
    "{{range .Image.Config.Env}}{{.}};{{else}}none{{end}}",
    "{{.Image.Config.Entrypoint}} {{.Image.Config.Cmd}} {{.Image.Config.User}}|",
    "{{.Image.Config.WorkingDir}}|{{.Image.Config.StopSignal}}|{{.Image.Config.ArgsEscaped}}",
    "{{if .Image.Config.Labels}}labelled{{end}}{{if not .Image.Config.Env}}no env{{end}}",
    "{{.Image.RootFS}} {{json .Image.RootFS}}",
    "{{(index .Image.RootFS.DiffIDs 0).Encoded}} {{len .Image.RootFS.DiffIDs}}",
    "{{.Image.History}} {{len .Image.History}} {{json .Image.History}}",
    "{{range .Image.History}}{{.CreatedBy}}|{{.Created}}|{{.EmptyLayer}}|{{.Comment}};{{end}}",
    "{{printf `%s %v %q` .Image.OS .Image.Config.Env .Image.Config.User}}",
    "{{eq .Image.OS `linux`}} {{ne .Image.Architecture `amd64`}}",
    "{{with .Image.Config}}{{.User}}|{{.Env}}{{end}}",
    "{{.SBOM}} {{.Provenance}} {{json .SBOM.SPDX}} {{json .Provenance.SLSA}}",
    "{{.SBOM.SPDX}} {{.SBOM.AdditionalSPDXs}} {{len .SBOM.AdditionalSPDXs}} {{.Provenance.SLSA}}",
    "{{with .Provenance.SLSA}}{{.runDetails.builder.id}}{{.none}}{{end}}",
]
CREATED = [
    "{{.Image.Created.Unix}} {{.Image.Created.UnixNano}} {{.Image.Created.UnixMilli}}",
    "{{.Image.Created.Format `2006-01-02T15:04:05Z07:00`}}",
    "{{.Image.Created.Format `Mon, 02 Jan 2006 3:04:05.000 PM -0700 MST`}}",
    "{{.Image.Created.Format `Monday _2 January 06 002 15h 4 5 .999 pm`}}",
    "{{`2006-01-02` | .Image.Created.Format}} {{.Image.Created.IsZero}}",
    "{{.Image.Created.Year}} {{.Image.Created.Month}} {{.Image.Created.Day}}",
    "{{.Image.Created.YearDay}} {{.Image.Created.Weekday}} {{.Image.Created.Nanosecond}}",
    "{{.Image.Created.UTC}} {{.Image.Created.String}} {{json .Image.Created}}",
    "{{(index .Image.History 0).Created.UTC.Hour}} {{(index .Image.History 0).Created.Unix}}",
    "{{.Image.Created.After (index .Image.History 0).Created}}",
    "{{printf `%v %s` .Image.Created .Image.Created}}",
]
SEVERAL = [
    "{{len .Image}} {{range $platform, $image := .Image}}{{$platform}}={{$image.OS}} {{end}}",
    "{{(index .Image `linux/arm64`).Config.Labels}} {{(index .Image `linux/arm64`).Variant}}",
    "{{json (index .Image `linux/arm64`)}} {{index .Image `none/none`}}",
    "{{with index .Image `linux/amd64`}}{{.Created}} {{.Config.User}} {{.Platform}}{{end}}",
    "{{range .Image}}{{.Architecture}} {{.Config.Env}} {{end}}",
    "{{range .Manifest.Manifests}}{{.Digest}} {{.MediaType}} {{.Size}} {{.Annotations}}\n{{end}}",
    "{{range .Manifest.Manifests}}{{with .Platform}}{{.OS}}{{.Variant}}{{end}}{{end}}",
    "{{json (index .Manifest.Manifests 1).Platform}} {{(index .Manifest.Manifests 1).Platform}}",
    "{{len .SBOM}} {{len .Provenance}} {{range $k, $v := .Provenance}}{{$k}} {{$v}}{{end}}",
    "{{(index .SBOM `linux/amd64`).SPDX}} {{index .Provenance `none/none`}}",
    "{{.Manifest.SchemaVersion}} {{(index .Manifest.Manifests 0).URLs}}",
    "{{.SBOM}} {{.Provenance}} {{.SBOM.none}}",
]
REFUSED = {
    "one": [
        "{{index .Image `linux/amd64`}}",
        "{{.Image.Nothing}}",
        "{{.Nothing}}",
        "{{.Manifest.Manifests}}",
        "{{.Manifest.SchemaVersion}}",
        "{{.Image.Created.Nothing}}",
        "{{.Image.Created.Format}}",
        "{{.Image.Created.Format 1}}",
        "{{.Image.OS 1}}",
        "{{range .Image}}{{end}}",
        "{{len .Image.Config}}",
        "{{.Image.Config.Healthcheck}}",
        "{{.SBOM.SPDX.name}}",
        "{{(index .Image.History 1).Created.Unix}}",
    ],
    "index": [
        "{{.Image.Config}}x{{(index .Image `none/none`).OS}}",
        "{{.Image.OS.x}}{{(index .Image `linux/amd64`).Nothing}}",
        "{{index .Manifest.Manifests 9}}",
        "{{range .Manifest}}{{end}}",
        "{{(index .Manifest.Manifests 0).Nothing}}",
    ],
    "unnamed": ["{{(index .Manifest.Manifests 0).Platform.OS}}"],
}
SHOWN = {
    "one": [*EVERY, *ONE, *CREATED],
    "docker": [*EVERY, *ONE, *CREATED],
    "bare": [*EVERY, *ONE, "{{.Image.Created}}"],
    "single": [*EVERY, *ONE],
    "unnamed": [*EVERY, *ONE],
    "index": [*EVERY, *SEVERAL],
    "attested": [*EVERY, *SEVERAL],
    "list": [*EVERY, *SEVERAL],
}

# buildx describes the image where a format begins with {{.Manifest; these begin with an x
_EACH = "\n----\n"


@pytest.fixture(scope="module")
def inspected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The repository with all images, at a node."""
    store = MemoryStore()
    with node(tmp_path_factory.mktemp("inspected") / "data") as running, Client() as client:
        name = f"{running.address}/team/app"
        repository = client.repository(Reference.parse(name))
        for tag, entry in images(store).items():
            target = Descriptor.from_json(entry).plain
            copy_graph(store, repository, target)
            repository.tag(target, store, tag)
        yield name


@pytest.fixture(scope="module")
def buildx() -> Callable[[str, str], str | None]:
    """What buildx prints for an image and a format; None if it refuses it."""
    program = (
        Path(newest()["PATH"].split(":")[0]).parent / "libexec/docker/cli-plugins/docker-buildx"
    )

    def formatted(name: str, template: str) -> str | None:
        form = f"x{template}" if template else "{{.Manifest}}"
        words: list[str | Path] = [program, "imagetools", "inspect", name, "--format", form]
        done = subprocess.run(words, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else None

    return formatted


def by_us(name: str, template: str) -> str | None:
    reference = Reference.parse(name)
    with Client() as client:
        fields = inspect_image(client.repository(reference), reference).fields(name)
        try:
            return render(f"x{template}", fields)
        except UsageError:
            return None


@pytest.mark.parametrize("tag", SHOWN)
def test_images_are_described_as_buildx_describes_them(
    inspected: str, buildx: Callable[[str, str], str | None], tag: str
) -> None:
    name = f"{inspected}:{tag}"
    reference = Reference.parse(name)
    with Client() as client:
        ours = describe(inspect_image(client.repository(reference), reference))
    # buildx prints annotations in any order, and a description for what begins with {{.Manifest
    assert sorted(ours.split("\n")) == sorted((buildx(name, "") or "").split("\n"))


@pytest.mark.parametrize("tag", SHOWN)
def test_formats_print_what_buildx_prints(
    inspected: str, buildx: Callable[[str, str], str | None], tag: str
) -> None:
    name = f"{inspected}:{tag}"
    whole = buildx(name, _EACH.join(SHOWN[tag]))
    assert whole is not None
    theirs = dict(zip(SHOWN[tag], whole[1:].split(_EACH), strict=True))
    assert {form: (by_us(name, form) or "")[1:] for form in SHOWN[tag]} == theirs


def test_formats_are_refused_where_buildx_refuses_them(
    inspected: str, buildx: Callable[[str, str], str | None]
) -> None:
    cases = [(f"{inspected}:{tag}", form) for tag, forms in REFUSED.items() for form in forms]
    with ThreadPoolExecutor(2) as pool:
        theirs = pool.map(lambda case: buildx(*case), cases)
    assert {
        form: (one, by_us(name, form)) for (name, form), one in zip(cases, theirs, strict=True)
    } == {form: (None, None) for _, form in cases}
