"""Attestations through the whole program: what is stated, where it is kept, and who reads it."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from builds import PLATFORMS, Shipline, blob, command, context, document, get, statements, tags
from peers import Docker, Registry
from shipline.oci import Digest

pytestmark = [pytest.mark.peers, pytest.mark.root]

HELLO = b"hello"
DOCKERFILE = """
FROM busybox AS build
ARG VER=1
ARG GREETING=hello
WORKDIR /src
COPY . .
RUN --network=none --mount=type=ssh --mount=type=secret,id=tok --mount=type=cache,target=/c \\
    echo $GREETING > out.txt && \\
    cat out.txt
COPY <<EOF /etc/f.txt
hi
EOF
ADD --checksum={digest} {url}/hello.txt /dl/
FROM scratch
COPY --from=build /src/out.txt /out.txt
COPY --from=build /dl /dl
COPY --from=more . /
CMD ["/x"]
"""
LISTED = """
FROM scratch AS base
COPY root /
FROM base AS tools
COPY tool /node_modules/tool/package.json
FROM base
COPY --from=tools /etc/os-release /copied
COPY app /app
"""
STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.41-12

Package: gone
Status: install ok installed
Architecture: amd64
Version: 1
"""
OWN = "FROM scratch\nCOPY page.html /\n"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that has hello.txt."""
    place = tmp_path_factory.mktemp("web")
    (place / "hello.txt").write_bytes(HELLO)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = partial(Quiet, directory=place)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def shipline(tmp_path: Path, base_images: Registry) -> Shipline:
    insecure = {"SHIPLINE_INSECURE": base_images.address}
    return Shipline(tmp_path / "home", base_images.address, insecure)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return context(tmp_path / "own", OWN, page__html="hello\n")


def shown(docker: Docker, name: str, field: str) -> Any:
    """What buildx shows of an image."""
    template = f"{{{{json .{field}}}}}"
    words = ("buildx", "imagetools", "inspect", name, "--format", template)
    return json.loads(docker.run(*words).stdout)


def normal(value: Any) -> Any:
    """A predicate without what differs in any two builds, or is the builder's own: identifiers,
    times, digests of steps and of the layers, which two builders compress differently.
    """
    text = json.dumps(value)
    text = re.sub(r'"[^"]*On": "[^"]*"', '"on": ""', text)
    text = re.sub(r'"(invocationId|buildInvocationID)": "[^"]*"', r'"\1": ""', text)
    text = text.replace('"attrs": {"image.resolvemode": "local"}, ', "")
    found = json.loads(text)
    for part in parts(found):
        part.pop("frontend.caps", None)
        if "digestMapping" in part:
            part["digestMapping"] = sorted(part["digestMapping"].values())
        if "layers" in part:
            part["layers"] = {key: len(one[0]) for key, one in part["layers"].items()}
        if "language" in part:
            part["data"] = base64.b64decode(part["data"]).decode()
    return found


def parts(value: Any) -> Iterator[dict[str, Any]]:
    """All objects in a document."""
    if isinstance(value, dict):
        yield value
    for one in value.values() if isinstance(value, dict) else value:
        if isinstance(one, dict | list):
            yield from parts(one)


def test_a_build_without_files_of_its_context_has_read_it_all_the_same(
    shipline: Shipline, docker: Docker, registry: Registry, tmp_path: Path
) -> None:
    place = context(tmp_path / "plain", "FROM busybox\nRUN --network=none true\n")
    words = ["--provenance", "mode=min,version=v1", "--push", "-t"]
    name = f"{registry.address}/plain"
    done = docker.run("buildx", "build", *words, f"{name}:theirs", place)
    assert done.returncode == 0, done.stdout
    shipline.build(*words, f"{name}:ours", place).ok()
    theirs, ours = (shown(docker, f"{name}:{one}", "Provenance") for one in ("theirs", "ours"))
    assert normal(ours) == normal(theirs)


@pytest.mark.parametrize(
    "options", ["mode=max,version=v1", "mode=min,version=v1", "mode=max,version=v0.2"]
)
def test_provenance_is_that_of_buildkit(
    shipline: Shipline, docker: Docker, registry: Registry, web: str, tmp_path: Path, options: str
) -> None:
    text = DOCKERFILE.format(digest=Digest.of(HELLO), url=web).lstrip()
    place = context(tmp_path / "rich", text, a__txt="a\n")
    more = context(place / "more", "", more__txt="more\n")
    for line in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -qm first"):
        subprocess.run(["git", *line.split()], cwd=place, check=True)
    (tmp_path / "secret").write_text("hidden")
    words: list[str | Path] = ["--network", "none", "--build-arg", "GREETING=hi", "--label", "l=1"]
    words += ["--build-context", f"more={more}"]
    words += ["--secret", f"id=tok,src={tmp_path / 'secret'}"]
    name = f"{registry.address}/proven"
    ours, theirs = proven(shipline, docker, name, *words, "--provenance", options, place)
    if "min" in options:
        assert "hi" not in json.dumps(ours).split('"')
    assert ours == theirs


def proven(shipline: Shipline, docker: Docker, name: str, *words: str | Path) -> tuple[Any, Any]:
    """The provenance that shipline states, and that of buildx."""
    done = docker.run("buildx", "build", "--push", "-t", f"{name}:theirs", *words)
    assert done.returncode == 0, done.stdout
    shipline.build("--push", "-t", f"{name}:ours", *words).ok()
    ours, theirs = (shown(docker, f"{name}:{tag}", "Provenance") for tag in ("ours", "theirs"))
    return normal(ours), normal(theirs)


def test_a_local_context_is_stated_though_nothing_is_copied_from_it(
    shipline: Shipline, docker: Docker, registry: Registry, tmp_path: Path
) -> None:
    place = context(tmp_path / "bare", "FROM busybox\nRUN --network=none echo > /made\n")
    name = f"{registry.address}/bare"
    ours, theirs = proven(shipline, docker, name, "--provenance=mode=max,version=v1", place)
    assert ours == theirs
    assert ours["SLSA"]["buildDefinition"]["externalParameters"]["request"]["locals"]


def test_an_image_with_attestations_is_an_index(
    shipline: Shipline, own: Path, registry: Registry
) -> None:
    name = f"{registry.address}/indexed"
    for tag, old in (("new", "0"), ("old", "1")):
        words = ("--provenance=mode=min", "--push", "-t", f"{name}:{tag}", own)
        shipline.build(*words, BUILDX_NO_DEFAULT_OCI_ARTIFACT=old).ok()
        image, attestation = document(registry, "indexed", tag)["manifests"]
        assert attestation["platform"] == {"architecture": "unknown", "os": "unknown"}
        assert attestation["annotations"] == {
            "vnd.docker.reference.digest": image["digest"],
            "vnd.docker.reference.type": "attestation-manifest",
        }
        manifest = document(registry, "indexed", attestation["digest"])
        (layer,) = manifest["layers"]
        assert layer["mediaType"] == "application/vnd.in-toto+json"
        kind = "https://slsa.dev/provenance/v1"
        assert layer["annotations"] == {"in-toto.io/predicate-type": kind}
        statement = blob(registry, "indexed", layer["digest"])
        assert statement["_type"] == "https://in-toto.io/Statement/v1"
        assert statement["predicateType"] == kind
        (subject,) = statement["subject"]
        assert subject["name"] == f"pkg:docker/{name}@{tag}?platform=linux%2Famd64"
        assert f"sha256:{subject['digest']['sha256']}" == image["digest"]
        if tag == "new":
            assert manifest["subject"]["digest"] == image["digest"]
            assert manifest["config"]["data"] == "e30="
        else:
            config = blob(registry, "indexed", manifest["config"]["digest"])
            assert config["rootfs"]["diff_ids"] == [layer["digest"]]
            assert "subject" not in manifest and "artifactType" not in manifest


def test_attestations_have_no_tags(shipline: Shipline, own: Path, registry: Registry) -> None:
    name = f"{registry.address}/untagged:1"
    for _ in range(2):
        shipline.build("--provenance=true", "--push", "-t", name, own).ok()
    assert tags(registry, "untagged") == ["1"]


def test_each_platform_has_its_attestations(
    shipline: Shipline, own: Path, registry: Registry, docker: Docker
) -> None:
    name = f"{registry.address}/platforms:1"
    shipline.build("--provenance=true", "--platform", PLATFORMS, "--push", "-t", name, own).ok()
    entries = document(registry, "platforms", "1")["manifests"]
    assert [one["platform"]["os"] for one in entries] == ["linux"] * 2 + ["unknown"] * 2
    about = [one["annotations"]["vnd.docker.reference.digest"] for one in entries[2:]]
    assert about == [one["digest"] for one in entries[:2]]
    assert sorted(shown(docker, name, "Provenance")) == ["linux/amd64", "linux/arm64"]
    # buildx prints annotations in any order
    fields = (".", ".Manifest", ".Image", ".Provenance", ".SBOM")
    forms = [*(f"{{{{json {field}}}}}" for field in fields), "{{.Manifest}}"]
    for words in ((), ("--raw",), *(("--format", form) for form in forms)):
        called = ("imagetools", "inspect", name, *words)
        run = [*command()[:-1], *called]
        done = subprocess.run(run, env=shipline.environ(), capture_output=True, check=True)
        theirs = docker.run("buildx", *called).stdout
        assert sorted(done.stdout.decode().split("\n")) == sorted(theirs.split("\n")), words


def test_files_carry_their_attestations_beside_them(
    shipline: Shipline, own: Path, tmp_path: Path
) -> None:
    out, tar = tmp_path / "out", tmp_path / "out.tar"
    asked = ("--provenance=true", "--platform", PLATFORMS)
    shipline.build("-o", f"type=local,dest={out},attestation-prefix=x.", *asked, own).ok()
    shipline.build("-o", f"type=tar,dest={tar}", *asked, own).ok()
    place = out / "linux_amd64/x.provenance.json"
    assert place.stat().st_mode & 0o777 == 0o600
    statement = json.loads(place.read_bytes())
    digest = hashlib.sha256(b"hello\n").hexdigest()
    assert statement["subject"] == [{"name": "page.html", "digest": {"sha256": digest}}]
    with tarfile.open(tar) as archive:
        assert "linux_arm64/provenance.json" in archive.getnames()
    both = f"type=tar,dest={tar},platform-split=false"
    merged = context(tmp_path / "merged", "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /\n")
    for machine in ("amd64", "arm64"):
        (merged / machine).touch()
    shipline.build("-o", both, "--provenance=true", "--platform", PLATFORMS, merged).ok()
    named = [f"provenance.linux_{machine}.json" for machine in ("amd64", "arm64")]
    with tarfile.open(tar) as archive:
        assert set(archive.getnames()) == {"amd64", "arm64", *named}


def test_an_attestation_replaces_no_file(shipline: Shipline, tmp_path: Path) -> None:
    place = context(tmp_path / "c", "FROM scratch\nCOPY . /\n", provenance__json="mine")
    out = tmp_path / "out"
    assert "attestation-prefix" in shipline.build("-o", out, "--provenance=1", place).failed(2)


def test_inline_only_is_for_images(
    shipline: Shipline, own: Path, registry: Registry, tmp_path: Path
) -> None:
    out, tar, name = tmp_path / "out", tmp_path / "oci.tar", f"{registry.address}/inline:1"
    words = ("-o", f"type=oci,dest={tar}", "-o", out, "--push", "-t", name)
    shipline.build("--provenance=inline-only=true", *words, own).ok()
    assert len(document(registry, "inline", "1")["manifests"]) == 2
    assert not (out / "provenance.json").exists()
    with tarfile.open(tar) as archive:
        index = archive.extractfile("index.json")
        assert index is not None
        (entry,) = json.loads(index.read())["manifests"]
    assert entry["mediaType"].endswith("manifest.v1+json")


def test_nothing_is_attested_unless_asked(
    shipline: Shipline, own: Path, registry: Registry
) -> None:
    name = f"{registry.address}/plain:1"
    shipline.build("--provenance=false", "--sbom=false", "--push", "-t", name, own).ok()
    assert "manifests" not in document(registry, "plain", "1")


def test_secrets_and_logins_are_in_no_attestation(
    shipline: Shipline, registry: Registry, web: str, tmp_path: Path
) -> None:
    login = web.replace("://", "://me:hunter2@")
    text = (
        f"FROM busybox\nADD {login}/hello.txt /\nARG FROM_URL\n"
        "RUN --mount=type=secret,id=k,env=K true\n"
    )
    place = context(tmp_path / "c", text)
    name = f"{registry.address}/secret:1"
    words = ["--provenance=mode=max", "--network=none", "--push", "-t", name]
    words += ["--secret", "id=k,env=TOKEN", "--build-arg", f"FROM_URL={login}"]
    words += ["--build-arg", "HTTPS_PROXY=http://me:hunter2@proxy:1"]
    subprocess.run(["git", "init", "-q", place], check=True)
    origin = "https://me:hunter2@git.example/x.git"
    subprocess.run(["git", "-C", place, "remote", "add", "origin", origin], check=True)
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    commit = ["commit", "-q", "--allow-empty", "-m", "x"]
    subprocess.run(["git", "-C", place, *author, *commit], check=True)
    meta = tmp_path / "meta.json"
    done = shipline.build(*words, "--metadata-file", meta, place, TOKEN="hunter3")
    done.ok()
    (statement,) = statements(registry, "secret", "1")
    facts = statement["predicate"]["runDetails"]["metadata"]["buildkit_metadata"]
    dockerfile = base64.b64decode(facts["source"]["infos"][0]["data"]).decode()
    for text in (json.dumps(statement), dockerfile, meta.read_text()):
        assert "hunter" not in text
    vcs = facts["vcs"]
    assert vcs["source"] == "https://git.example/x.git"
    assert vcs["localdir:context"] == "."


@pytest.mark.parametrize(("asked", "steps"), [("min", False), ("max", True), ("disabled", None)])
def test_metadata_says_how_the_image_was_built(
    shipline: Shipline, own: Path, tmp_path: Path, asked: str, steps: bool | None
) -> None:
    """As with buildx: of version 0.2, with all arguments and the builder whatever the mode is."""
    file = tmp_path / "meta.json"
    words = ("--metadata-file", file, "-o", "type=cacheonly", "--build-arg", "A=b")
    attested = "--provenance=mode=min,builder-id=https://ci.example/1"
    shipline.build(*words, attested, own, BUILDX_METADATA_PROVENANCE=asked).ok()
    found = json.loads(file.read_bytes()).get("buildx.build.provenance")
    assert (found and "buildConfig" in found) == steps
    assert (found and "metadata" in found) == steps
    if found is not None:
        assert found["builder"] == {"id": "https://ci.example/1"}
        assert found["invocation"]["parameters"]["args"]["build-arg:A"] == "b"


@pytest.mark.parametrize("name", ["busybox", "busybox:latest@{}", "busybox@{}"])
def test_a_digest_in_the_name_of_a_base_is_in_its_package_url(
    shipline: Shipline, base_images: Registry, tmp_path: Path, name: str
) -> None:
    """As BuildKit writes it, which does not escape the colon."""
    digest = str(Digest.of(get(base_images, "/v2/library/busybox/manifests/latest")[1]))
    place = context(tmp_path / "place", f"FROM {name.format(digest)}\n")
    file = tmp_path / "meta.json"
    shipline.build("--metadata-file", file, "-o", "type=cacheonly", place).ok()
    (material,) = json.loads(file.read_bytes())["buildx.build.provenance"]["materials"]
    tag = "@latest" if name != "busybox@{}" else ""
    pinned = f"digest={digest}&" if "{}" in name else ""
    assert material["uri"] == f"pkg:docker/busybox{tag}?{pinned}platform=linux%2Famd64"


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A context with an image of packages: of Debian, of npm, and of Python."""
    place = context(tmp_path / "listed", LISTED)
    root, app = place / "root", place / "app"
    for path, text in (
        (root / "etc/os-release", "ID=debian\nVERSION_ID=13\n"),
        (root / "var/lib/dpkg/status", STATUS),
        (root / "usr/share/doc/libc6/copyright", "Format: x\nLicense: LGPL-2.1+\n"),
        (app / "node_modules/a/package.json", '{"name": "a", "version": "1.0.0"}'),
        (app / "venv/b-2.0.dist-info/METADATA", "Name: B\nVersion: 2.0\n"),
        (place / "tool", '{"name": "tool", "version": "3.0.0"}'),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return place


def purls(document: Any) -> list[str]:
    references = [ref for one in document["packages"] for ref in one.get("externalRefs", ())]
    return sorted(one["referenceLocator"] for one in references)


LIBC = "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13"
GONE = LIBC.replace("libc6@2.41-12", "gone@1")


def test_an_sbom_lists_the_packages_of_the_image(
    shipline: Shipline, listed: Path, registry: Registry, docker: Docker
) -> None:
    name = f"{registry.address}/listed:1"
    words = ("--sbom=true", "--provenance=true", "--push", "-t", name, listed)
    shipline.build(*words).ok()
    spdx, provenance = statements(registry, "listed", "1")
    kinds = [spdx["predicateType"], provenance["predicateType"]]
    assert kinds == ["https://spdx.dev/Document", "https://slsa.dev/provenance/v1"]
    document = spdx["predicate"]
    assert purls(document) == [GONE, LIBC, "pkg:npm/a@1.0.0", "pkg:pypi/b@2.0"]
    entries = document_of(registry, "listed", "1")
    layers = [one["digest"] for one in entries["layers"]]
    places = {one["fileName"]: one["comment"] for one in document["files"]}
    assert places["var/lib/dpkg/status"] == f"layerID: {layers[0]}"
    assert places["app/node_modules/a/package.json"] == f"layerID: {layers[2]}"
    libc = next(one for one in document["packages"] if one["name"] == "libc6")
    assert libc["licenseDeclared"] == "LGPL-2.1-or-later"
    assert shown(docker, name, "SBOM") == {"SPDX": document}


def document_of(registry: Registry, repository: str, tag: str) -> dict[str, Any]:
    """The manifest of the first image."""
    return document(
        registry, repository, document(registry, repository, tag)["manifests"][0]["digest"]
    )


def test_what_upper_layers_hide_is_not_listed(
    shipline: Shipline, listed: Path, registry: Registry
) -> None:
    upper = STATUS.split("\n\n")[0] + "\n"
    (listed / "upper").write_text(upper)
    text = (listed / "Dockerfile").read_text() + "COPY upper /var/lib/dpkg/status\n"
    (listed / "Dockerfile").write_text(text)
    name = f"{registry.address}/hidden:1"
    shipline.build("--sbom=true", "--push", "-t", name, listed).ok()
    (spdx,) = statements(registry, "hidden", "1")
    assert purls(spdx["predicate"]) == [LIBC, "pkg:npm/a@1.0.0", "pkg:pypi/b@2.0"]


def test_equal_builds_have_equal_sboms(
    shipline: Shipline, listed: Path, registry: Registry, tmp_path: Path
) -> None:
    found = []
    for number, home in enumerate(("one", "two")):
        other = Shipline(tmp_path / home, shipline.mirror, shipline.environment)
        name = f"{registry.address}/equal:1"
        words = ("--sbom=cyclonedx=true", "--push", "-t", name, listed)
        other.build(*words, SOURCE_DATE_EPOCH="1700000000").ok()
        found.append(document(registry, "equal", "1"))
        assert number == 0 or found[0] == found[1]
    assert [one["predicateType"] for one in statements(registry, "equal", "1")] == [
        "https://spdx.dev/Document",
        "https://cyclonedx.org/bom",
    ]


def test_stages_and_the_context_have_lists_of_their_own(
    shipline: Shipline, listed: Path, tmp_path: Path
) -> None:
    text = "ARG BUILDKIT_SBOM_SCAN_STAGE=tools\nARG BUILDKIT_SBOM_SCAN_CONTEXT=true\n"
    (listed / "Dockerfile").write_text(text + (listed / "Dockerfile").read_text())
    (listed / "requirements.txt").write_text("pinned==1.0\n")
    out = tmp_path / "out"
    shipline.build("--sbom=true", "-o", out, listed).ok()
    found = {
        path.name: purls(json.loads(path.read_bytes())["predicate"])
        for path in out.glob("*.spdx.json")
    }
    assert sorted(found) == ["sbom-context.spdx.json", "sbom-tools.spdx.json", "sbom.spdx.json"]
    assert "pkg:npm/tool@3.0.0" in found["sbom-tools.spdx.json"]
    assert "pkg:npm/tool@3.0.0" not in found["sbom.spdx.json"]
    assert "pkg:pypi/pinned@1.0" in found["sbom-context.spdx.json"]


def test_a_scan_is_kept_with_its_layer(shipline: Shipline, listed: Path) -> None:
    words = ("--sbom=true", "--progress=plain", "-o", "type=cacheonly", listed)
    first, second = (shipline.build(*words).ok().err for _ in range(2))
    assert "for packages" in first
    assert "for packages" not in second


def test_files_that_cannot_be_read_are_named(
    shipline: Shipline, listed: Path, tmp_path: Path
) -> None:
    place = listed / "app/node_modules/hostile/package.json"
    place.parent.mkdir()
    place.write_text("[" * 100_000)
    database = listed / "app/var/lib/rpm/Packages"
    database.parent.mkdir(parents=True)
    database.write_bytes(b"\0" * 4096)
    out = tmp_path / "out"
    done = shipline.build("--sbom=true", "-o", out, listed).ok()
    assert "is incomplete: app/" in done.err
    document = json.loads((out / "sbom.spdx.json").read_bytes())["predicate"]
    comment = document["creationInfo"]["comment"]
    assert comment.startswith("incomplete: ") and "not a database of rpm" in comment
    assert LIBC in purls(document)


SYFT = """#!/bin/sh
cat << EOF
{"spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "name": "x",
 "documentNamespace": "https://random/$$", "packages": [],
 "creationInfo": {"created": "$(date -u +%FT%TZ)", "creators": ["Tool: syft-9"]},
 "files": [{"fileName": "/var/lib/dpkg/status", "SPDXID": "SPDXRef-File"}]}
EOF
test -f "${2#dir:}/var/lib/dpkg/status"
"""


def test_syft_scans_where_it_is_installed(shipline: Shipline, listed: Path, tmp_path: Path) -> None:
    program = tmp_path / "bin/syft"
    program.parent.mkdir()
    program.write_text(SYFT)
    program.chmod(0o755)
    path = f"{program.parent}:{shipline.environ()['PATH']}"
    found = []
    for number in range(2):
        out = tmp_path / f"out{number}"
        words = ("--sbom=generator=syft", "-o", out, listed)
        shipline.build(*words, PATH=path, SOURCE_DATE_EPOCH="1700000000").ok()
        found.append((out / "sbom.spdx.json").read_bytes())
    assert found[0] == found[1]
    document = json.loads(found[0])["predicate"]
    assert document["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    assert document["creationInfo"]["creators"][0] == "Tool: syft-9"
    assert document["files"][0]["comment"].startswith("layerID: sha256:")
    program.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    message = shipline.build("--sbom=1", "-o", tmp_path / "x", listed, PATH=path).failed(8)
    assert "syft failed with status 3: broken" in message


def test_a_missing_syft_is_told_before_the_build(shipline: Shipline, listed: Path) -> None:
    message = shipline.build("--sbom=generator=syft", listed, PATH="/usr/bin:/bin").failed(2)
    assert "no syft" in message
