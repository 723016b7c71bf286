"""The same --output for buildx and for shipline: the same documents, files and facts."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builds import PLATFORMS, Shipline, context, document, get
from peers import Docker, Registry

pytestmark = [pytest.mark.peers, pytest.mark.root]

DOCKERFILE = """
FROM busybox
COPY page.html /srv/
LABEL a=b
RUN --network=none echo made > /srv/made && ln -s made /srv/link && chmod 4711 /srv/made
CMD ["cat", "/srv/page.html"]
"""
EPOCH = ("--build-arg", "SOURCE_DATE_EPOCH=1700000000")
CREATED = "org.opencontainers.image.created"
Node = dict[str, Any]
Blob = Callable[[str], Any]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Files of this test alone: BuildKit exports a layer as it first compressed it."""
    return context(tmp_path / "context", DOCKERFILE, page__html=f"{tmp_path}\n")


class Builders:
    """Both builders of one context; `outputs` run both, and return where each wrote to."""

    def __init__(self, docker: Docker, shipline: Shipline, source: Path) -> None:
        self._docker, self._shipline, self._source = docker, shipline, source
        self.facts: list[Node] = []

    def outputs(self, template: str, *words: str) -> list[str]:
        """`{}` in the template is a name of the builder's own."""
        self.facts = []
        for name in ("theirs", "ours"):
            facts = self._source.with_name(f"{name}.json")
            all_words = ["-o", template.format(name), *EPOCH, "--metadata-file", str(facts), *words]
            if name == "ours":
                self._shipline.build(*all_words, self._source).ok()
            else:
                buildx = ("buildx", "build", "--provenance=false")
                done = self._docker.run(*buildx, *all_words, self._source)
                assert done.returncode == 0, done.stdout
            self.facts.append(json.loads(facts.read_text()))
        return ["theirs", "ours"]


@pytest.fixture
def builders(tmp_path: Path, docker: Docker, base_images: Registry, source: Path) -> Builders:
    return Builders(docker, Shipline(tmp_path / "home", base_images.address), source)


def shape(descriptor: Node, blob: Blob) -> Node:
    """A descriptor and all below it, without what depends on the bytes of layers."""
    found = {key: value for key, value in descriptor.items() if key not in ("digest", "size")}
    if "layer" in found["mediaType"] or "rootfs.diff" in found["mediaType"]:
        return found
    content = blob(descriptor["digest"])
    for key in ("manifests", "layers"):
        if key in content:
            content[key] = [shape(one, blob) for one in content[key]]
    if "digest" in content.get("config", {}):
        content["config"] = shape(content["config"], blob)
    if "rootfs" in content:
        content["rootfs"]["diff_ids"] = len(content["rootfs"]["diff_ids"])
    return {**found, "content": content}


def same(found: list[Any]) -> None:
    theirs, ours = found
    assert ours == theirs


def image_facts(facts: Node) -> Node:
    """What metadata says of an image, without what depends on the bytes of layers, on the name of
    the builder, and on provenance.
    """
    kept = {key: value for key, value in facts.items() if not key.startswith("buildx.")}
    descriptor = kept.pop("containerimage.descriptor")
    kept["descriptor"] = {k: v for k, v in descriptor.items() if k not in ("digest", "size")}
    for key in ("containerimage.digest", "containerimage.config.digest"):
        kept[key] = len(kept.get(key, ""))
    kept["image.name"] = kept["image.name"].replace("theirs", "ours")
    return kept


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ("oci-mediatypes=true", ()),
        ("oci-mediatypes=false", ()),
        ("annotation.a=b,annotation-manifest-descriptor.c=d", ("--platform", PLATFORMS)),
        ("compression=zstd,force-compression=true,oci-mediatypes=true", ()),
        ("compression=uncompressed,force-compression=true,oci-mediatypes=true", ()),
        ("oci-mediatypes=true", ("--annotation", "index:e=f", "--platform", PLATFORMS)),
    ],
)
def test_pushed_documents(
    builders: Builders, base_images: Registry, attributes: str, words: tuple[str, ...]
) -> None:
    template = f"type=image,name={base_images.address}/outputs/{{}}:1,push=true,{attributes}"
    names = builders.outputs(template, *words)

    def pushed(name: str, facts: Node) -> Node:
        def blob(digest: str) -> Any:
            status, body = get(base_images, f"/v2/outputs/{name}/blobs/{digest}")
            return json.loads(body) if status == 200 else manifest(digest)

        def manifest(digest: str) -> Any:
            return document(base_images, f"outputs/{name}", digest)

        return shape(facts["containerimage.descriptor"], blob)

    same([pushed(name, facts) for name, facts in zip(names, builders.facts, strict=True)])
    same([image_facts(facts) for facts in builders.facts])


@pytest.mark.parametrize(
    ("kind", "words"), [("oci", ()), ("docker", ()), ("oci", ("--platform", PLATFORMS))]
)
def test_archives(builders: Builders, tmp_path: Path, kind: str, words: tuple[str, ...]) -> None:
    template = f"type={kind},dest={tmp_path}/{{}}.tar,name=some/image:1,oci-mediatypes=true"
    names = builders.outputs(template, *words)

    def archived(name: str) -> tuple[set[Any], Node]:
        documents = {}
        with tarfile.open(tmp_path / f"{name}.tar") as tar:
            for member in tar.getmembers():
                file = tar.extractfile(member)
                if file is not None and member.size < 1 << 16:
                    documents[member.name] = file.read()
            heads = {
                (one.name if "/sha256/" not in one.name else "", one.mode, one.mtime, one.uid)
                for one in tar.getmembers()
            }
        index = json.loads(documents["index.json"])
        times = [one["annotations"][CREATED] for one in index["manifests"]]
        index["times"] = [re.sub("[0-9]", "0", time) for time in times]
        index["manifests"] = [
            shape(one, lambda digest: json.loads(documents[f"blobs/{digest.replace(':', '/')}"]))
            for one in index["manifests"]
        ]
        for one in json.loads(documents.get("manifest.json", b"[]")):
            index["docker"] = (one["RepoTags"], len(one["Layers"]), sorted(one))
        return heads, index

    same([archived(name) for name in names])


def test_files(builders: Builders, tmp_path: Path) -> None:
    names = builders.outputs(f"type=local,dest={tmp_path}/files/{{}}")

    def listed(name: str) -> dict[str, Any]:
        root = tmp_path / "files" / name
        return {str(path.relative_to(root)): path.lstat().st_mode for path in root.rglob("*")}

    same([listed(name) for name in names])
    names = builders.outputs(f"type=tar,dest={tmp_path}/{{}}.tar", "--platform", PLATFORMS)

    def members(name: str) -> dict[str, Any]:
        with tarfile.open(tmp_path / f"{name}.tar") as tar:
            return {
                one.name: (one.type, one.mode, one.uid, one.linkname, one.size)
                for one in tar.getmembers()
            }

    same([members(name) for name in names])


STAGES = """
FROM --platform=$BUILDPLATFORM busybox AS greeting
WORKDIR /srv
COPY page.html .
FROM busybox
COPY --from=greeting /srv/page.html /
RUN --network=none cat /page.html
"""
WORDS = {
    "type=oci": "oci image format",
    "type=docker": "docker image format",
    "type=local": "client directory",
}
NOT_OURS = ("FROM ", "load .dockerignore", "load build context")
LINE = re.compile(
    r"^#\d+ (\[.*|exporting (?:to|manifest|config) .*?|naming to .*?)(?: [0-9.]+s)?(?: done)?$",
    re.MULTILINE,
)


@pytest.mark.parametrize("platforms", ["linux/amd64", "linux/arm64", "linux/amd64,linux/arm64"])
def test_steps_are_named_as_by_buildx(
    docker: Docker, base_images: Registry, tmp_path: Path, platforms: str
) -> None:
    place = context(tmp_path / "context", STAGES, page__html=f"{tmp_path}\n")
    words = ("--progress=plain", "--platform", platforms, place)
    shipline = Shipline(tmp_path / "home", base_images.address)
    for output in ("type=oci", "type=docker", "type=local"):
        if "," in platforms and output == "type=docker":
            continue
        more = (f"--output={output},dest={tmp_path}/{output[5:]}", *words)
        theirs = docker.run("buildx", "build", "--provenance=false", *more)
        ours = shipline.build(*more).ok()
        found = [
            {
                re.sub("sha256:.*", "", one)
                for one in LINE.findall(text)
                if not any(f" {word}" in one for word in NOT_OURS)
            }
            for text in (theirs.stdout, ours.err)
        ]
        assert found[0] == found[1] and f"exporting to {WORDS[output]}" in found[0]


DOCUMENTS = """
FROM busybox
ARG WHO=me
ENV B=2 A=1
LABEL z=1 a="<2> & 3"
EXPOSE 80 443/udp
VOLUME /data /a
WORKDIR /w
COPY page.html /srv/
USER 1000:1000
HEALTHCHECK --interval=5s --retries=2 CMD true
SHELL ["/bin/sh", "-ec"]
ONBUILD RUN true
CMD ["c"]
"""


def documents(layout: Path) -> list[bytes]:
    """The index.json of a layout, and below it all documents, and the digests of layers."""
    found = [(layout / "index.json").read_bytes()]
    waiting = [one["digest"] for one in json.loads(found[0])["manifests"]]
    while waiting:
        digest = waiting.pop(0)
        raw = (layout / "blobs/sha256" / digest.partition(":")[2]).read_bytes()
        if not raw.startswith(b"{"):
            found.append(digest.encode())
            continue
        found.append(raw)
        parts = json.loads(raw)
        below = [*parts.get("manifests", ()), *parts.get("layers", ())]
        if "mediaType" in parts.get("config", {}):
            below.append(parts["config"])
        waiting += [one["digest"] for one in below]
    return found


@pytest.mark.parametrize("platforms", ["linux/amd64", PLATFORMS])
def test_equal_images_have_equal_digests(
    builders: Builders, source: Path, tmp_path: Path, platforms: str
) -> None:
    """Where the bytes of the layers are equal: no compressor is that of BuildKit."""
    (source / "Dockerfile").write_text(DOCUMENTS)
    attributes = "compression=uncompressed,force-compression=true,rewrite-timestamp=true"
    attributes += ",annotation.b=1,annotation.a=<2>"
    output = f"type=oci,tar=false,dest={tmp_path}/{{}},{attributes}"
    names = builders.outputs(output, "--platform", platforms)
    same([documents(tmp_path / name) for name in names])
