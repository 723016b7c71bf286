"""Nothing that is asked for is ignored without a word: it is done, warned about, or refused."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from builds import Done, Shipline, context
from peers import Docker, Registry

BUSYBOX = "FROM busybox\n"
PLAIN = ("--progress", "plain")


@pytest.fixture
def shipline(tmp_path: Path) -> Shipline:
    return Shipline(tmp_path / "home")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return context(tmp_path / "context", "FROM scratch\nCOPY file /\n", file="content")


def test_a_build_without_output_says_what_to_add(shipline: Shipline, scratch: Path) -> None:
    said = shipline.build(*PLAIN, scratch).ok().err
    assert "No output specified" in said and "use --push" in said and "use --load" in said
    assert "No output" not in shipline.build(*PLAIN, "-o", "type=cacheonly", scratch).ok().err


@pytest.mark.parametrize(
    "syntax",
    [
        "docker/dockerfile:1",
        "docker.io/docker/dockerfile:1.9-labs",
        "mirror:5000/x/docker/dockerfile-upstream",
    ],
)
def test_dockers_own_frontend_is_built_in(shipline: Shipline, scratch: Path, syntax: str) -> None:
    (scratch / "Dockerfile").write_text(f"# syntax={syntax}\nFROM scratch\nCOPY file /\n")
    assert "frontend" not in shipline.build(*PLAIN, scratch).ok().err


def test_the_progress_names_the_dockerfile_as_buildx_does(
    shipline: Shipline, scratch: Path
) -> None:
    other = scratch / "other.Dockerfile"
    (scratch / "Dockerfile").rename(other)
    said = shipline.build(*PLAIN, "-f", other, scratch).ok().err
    assert "#1 [internal] load build definition from other.Dockerfile\n" in said
    said = shipline.build(*PLAIN, "-f", "-", scratch, stdin=other.read_bytes()).ok().err
    assert "#1 [internal] load build definition from Dockerfile\n" in said


def test_another_frontend_is_refused_before_its_file_is_read(
    shipline: Shipline, scratch: Path
) -> None:
    (scratch / "Dockerfile").write_text("# syntax=example.com/buildpack:v1\nkind: other\n")
    said = shipline.build(*PLAIN, scratch).failed(4)
    assert "example.com/buildpack:v1" in said and "BUILDKIT_SYNTAX" in said
    assert "Dockerfile:1\n" in said
    (scratch / "Dockerfile").write_text("# syntax=example.com/buildpack:v1\nFROM scratch\n")
    as_ours = ("--build-arg", "BUILDKIT_SYNTAX=docker/dockerfile:1")
    shipline.build(*PLAIN, *as_ours, scratch).ok()
    fork = ("--build-arg", "BUILDKIT_SYNTAX=example.com/dockerfile:1")
    assert "built-in Dockerfile frontend is used" in shipline.build(*PLAIN, *fork, scratch).ok().err


def test_what_a_source_policy_denies_is_not_read(shipline: Shipline, scratch: Path) -> None:
    policy = scratch / "policy.json"

    def build() -> Done:
        return shipline.build(scratch, EXPERIMENTAL_BUILDKIT_SOURCE_POLICY=str(policy))

    assert "SOURCE_POLICY: cannot read" in build().failed(2)
    policy.write_text('{"rules": [{"action": "DENY", "selector": {"identifier": "https://*"}}]}')
    build().ok()
    (scratch / "Dockerfile").write_text("FROM scratch\nADD https://example.invalid/f /\n")
    said = build().failed(9)
    assert 'source "https://example.invalid/f" denied by policy' in said


REGO = """package docker
default allow := false
allow if input.local
allow if {{ input.image.repo == "{image}"; startswith(input.image.checksum, "sha256:") }}
deny_msg contains sprintf("%s is no {image}", [input.image.ref]) if {{ input.image; not allow }}
decision := {{"allow": allow, "deny_msg": deny_msg}}
"""


@pytest.mark.peers
def test_what_a_policy_in_rego_does_not_allow_is_not_built_from(
    shipline: Shipline, scratch: Path, base_images: Registry
) -> None:
    shipline = Shipline(shipline.home, base_images.address)
    (scratch / "Dockerfile").write_text(f"{BUSYBOX}COPY file /\n")
    own = scratch / "Dockerfile.rego"
    own.write_text(REGO.format(image="busybox"))
    shipline.build("--policy", "strict=true", "-o", "type=cacheonly", scratch).ok()
    own.write_text(REGO.format(image="alpine"))
    for words, status in (
        ((), 9),
        (("--call=check",), 1),
        (("--policy", f"reset=true,filename={own}"), 9),
    ):
        said = shipline.build(*words, scratch).failed(status)
        assert 'source "docker-image://docker.io/library/busybox:latest" not allowed' in said
        assert "docker.io/library/busybox:latest is no alpine" in said and str(own) in said
    shipline.build("--policy", "disabled=true", "-o", "type=cacheonly", scratch).ok()
    (scratch / "Dockerfile").write_text("FROM scratch\nADD https://example.invalid/f /\n")
    assert 'source "https://example.invalid/f" not allowed' in shipline.build(scratch).failed(9)


def test_a_secret_without_its_file_is_refused_though_nothing_mounts_it(
    shipline: Shipline, scratch: Path, tmp_path: Path
) -> None:
    said = shipline.build("--secret", "id=a,src=/no/such", scratch).failed(2)
    assert "id=a" in said and "/no/such" in said
    assert "directory" in shipline.build("--secret", f"id=a,src={tmp_path}", scratch).failed(2)


def test_one_platform_can_be_an_index(shipline: Shipline, scratch: Path, tmp_path: Path) -> None:
    def media_type(*words: str) -> str:
        facts = tmp_path / "facts"
        archive = ("-o", f"type=oci,dest={tmp_path}/o.tar", "--metadata-file", str(facts))
        shipline.build(*archive, *words, scratch).ok()
        return str(json.loads(facts.read_text())["containerimage.descriptor"]["mediaType"])

    assert "manifest" in media_type()
    assert "index" in media_type("--build-arg", "BUILDKIT_MULTI_PLATFORM=1")
    both = ("--platform", "linux/amd64,linux/arm64", "--build-arg", "BUILDKIT_MULTI_PLATFORM=0")
    assert "forbids an index" in shipline.build(*both, scratch).failed(2)
    split = ("-o", str(tmp_path / "out"), "--build-arg", "BUILDKIT_MULTI_PLATFORM=true")
    shipline.build(*split, "--platform", "linux/amd64", scratch).ok()
    assert (tmp_path / "out/linux_amd64/file").exists()


def test_warnings_are_written_where_that_is_asked_for(
    shipline: Shipline, scratch: Path, tmp_path: Path
) -> None:
    """Those of the Dockerfile, as in buildx, and none of the options: here there is no output."""
    facts = tmp_path / "facts"
    (scratch / "Dockerfile").write_text("FROM scratch as one\nCOPY file /\n")
    shipline.build("--metadata-file", facts, scratch, BUILDX_METADATA_WARNINGS="1").ok()
    (warning,) = json.loads(facts.read_text())["buildx.build.warnings"]
    assert b"FromAsCasing" in base64.b64decode(warning["short"])
    shipline.build("--metadata-file", facts, scratch).ok()
    assert "buildx.build.warnings" not in json.loads(facts.read_text())


def test_progress_of_the_command_line_and_quiet_exclude_each_other(
    shipline: Shipline, scratch: Path
) -> None:
    said = shipline.build("-q", "--progress=plain", scratch).failed(2)
    assert "progress=plain and quiet cannot be used together" in said
    shipline.build("-q", "--progress=auto", scratch, BUILDKIT_PROGRESS="plain").ok()
    assert shipline.build("-q", scratch, BUILDKIT_PROGRESS="plain").ok().err == ""


def test_labels_from_git(shipline: Shipline, scratch: Path, tmp_path: Path) -> None:
    def labels(git: str = "", dirty: str = "") -> dict[str, str]:
        out = tmp_path / "layout"
        words = ("-o", f"type=oci,dest={out},tar=false", scratch)
        shipline.build(*words, BUILDX_GIT_LABELS=git, BUILDX_GIT_CHECK_DIRTY=dirty).ok()
        blobs = [
            json.loads(one.read_bytes())
            for one in (out / "blobs/sha256").iterdir()
            if one.read_bytes()[:1] == b"{"
        ]
        (config,) = [one for one in blobs if "rootfs" in one]
        subprocess.run(("rm", "-r", out), check=True)
        return dict(config["config"].get("Labels") or {})

    assert labels("1") == {}  # no repository
    url = "https://user:secret@example.com/a.git"
    for words in (
        ("init", "-q"),
        ("add", "."),
        ("-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "x"),
        ("remote", "add", "origin", url),
    ):
        subprocess.run(("git", "-C", scratch, *words), check=True)
    head = subprocess.check_output(("git", "-C", scratch, "rev-parse", "HEAD"), text=True).strip()
    revision, entry = "org.opencontainers.image.revision", "com.docker.image.source.entrypoint"
    assert labels("1") == {revision: head, entry: "Dockerfile"}
    (scratch / "file").write_text("changed")
    full = labels("full", "1")
    assert full[revision] == f"{head}-dirty"
    assert full["org.opencontainers.image.source"] == "https://example.com/a.git"
    assert labels() == {}


@pytest.mark.peers
@pytest.mark.root
def test_names_of_machines_in_run(base_images: Registry, tmp_path: Path) -> None:
    shipline = Shipline(tmp_path / "home", base_images.address)
    run = "RUN hostname && cat /etc/hosts && exit 9\n"
    place = context(tmp_path / "context", BUSYBOX + run)
    own = ("--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=builder.example")
    gateway = ("--add-host", "host.docker.internal:host-gateway")
    said = " ".join(shipline.build(*PLAIN, *own, *gateway, place).failed(5).split())
    assert "127.0.0.1 localhost builder.example" in said
    assert "127.0.0.1 host.docker.internal" in said
    assert "buildkitsandbox" in shipline.build(*PLAIN, place).failed(5)


@pytest.mark.peers
@pytest.mark.root
def test_memory_of_run_is_limited(base_images: Registry, tmp_path: Path) -> None:
    shipline = Shipline(tmp_path / "home", base_images.address)
    run = "RUN x=$(head -c 100000000 /dev/zero | tr '\\0' a); echo ${#x}\n"
    place = context(tmp_path / "context", BUSYBOX + run)
    shipline.build(*PLAIN, "-m", "32m", place).failed(5)
    assert "no effect" not in shipline.build(*PLAIN, "--resource", "memory=2g", place).ok().err


@pytest.mark.peers
@pytest.mark.root
@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("FROM busybox\nCOPY $FOO /x\nENV A=$PATH \\\n B=$BAR\n", None),
        ("FROM nosuch:1\nMAINTAINER me\nCOPY file /\n", [1]),
        ("FROM nosuch:1 AS a\nFROM busybox\nCOPY file /\n", [1]),
        ("FROM busybox\nMAINTAINER me\nCOPY --chmod=u=7 file /\n", [3]),
        ("FROM busybox\nADD --checksum=sha256:00 file \\\n /\n", [2, 3]),
        ("FROM busybox\nCOPY nofile /\n", None),
        ("FROM busybox\nRNU x\n", [2]),
    ],
)
def test_a_check_finds_what_buildx_finds(
    tmp_path: Path, docker: Docker, base_images: Registry, text: str, lines: list[int] | None
) -> None:
    place = context(tmp_path / "context", text, file="content")
    words = ("--call=check,format=json", "-q", place)
    ours = Shipline(tmp_path / "home", base_images.address).build(*words)
    theirs = subprocess.run(
        ("docker", "buildx", "build", *words), env=docker.environment, capture_output=True
    )
    assert ours.status == theirs.returncode
    found, wanted = json.loads(ours.out), json.loads(theirs.stdout)
    warnings = [
        [(one["ruleName"], one["detail"], one["location"]) for one in document["warnings"] or ()]
        for document in (found, wanted)
    ]
    assert warnings[0] == warnings[1]
    location = lines and {"ranges": [{"start": {"line": n}, "end": {"line": n}} for n in lines]}
    for document in (found, wanted):
        assert document.get("buildError", {}).get("location") == location
        assert [one["filename"] for one in document.get("sources") or ()] in ([], ["Dockerfile"])


CALLED = """\
# TAG is that of the base
ARG TAG=latest
FROM busybox:${TAG} AS base
# FOO has <html> & more
ARG FOO="<b>"\\
b
ARG BAR=$FOO
RUN --mount=type=secret,id=token,required=true \\
    --mount=type=ssh,id=git true
# release has the rest
FROM --platform=$BUILDPLATFORM base AS release
ARG TARGETARCH
ARG SIZE
COPY --from=alpine /etc/passwd /
FROM scratch AS last
COPY --from=release /etc/passwd /
"""


@pytest.mark.parametrize(
    "words",
    [
        ("--call=outline",),
        ("--call=outline,format=json", "--target=base"),
        ("--call=outline", "--target=RELEASE", "--build-arg=SIZE=2", "--build-arg=TAG=latest"),
        ("--print=targets",),
        ("--call=targets,format=json",),
        ("--call=subrequests.describe",),
        ("--call=subrequests.describe,format=json",),
        ("--check",),
    ],
)
def test_a_call_prints_what_buildx_prints(
    tmp_path: Path, docker: Docker, base_images: Registry, words: tuple[str, ...]
) -> None:
    place = context(tmp_path / "context", CALLED)
    ours = Shipline(tmp_path / "home", base_images.address).build(*words, place)
    theirs = subprocess.run(
        ("docker", "buildx", "build", *words, place), env=docker.environment, capture_output=True
    )
    assert (ours.status, ours.out) == (theirs.returncode, theirs.stdout.decode())


@pytest.mark.parametrize("method", ["outline", "targets"])
def test_a_call_about_a_dockerfile_that_is_none_fails(tmp_path: Path, method: str) -> None:
    place = context(tmp_path / "context", "FROM scratch\nRNU x\n")
    done = Shipline(tmp_path / "home", "none.invalid").build(f"--call={method}", place)
    assert (done.status, done.out) == (4, "")
    assert "unknown instruction: RNU" in done.err
