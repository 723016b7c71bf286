"""Contexts from elsewhere through the whole program: what is fetched, kept, told and refused."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from builds import Shipline, command, context, image_times
from peers import FILE_TIME_S, GitRepository, GitServer, git_server
from peers.git import COMMIT_TIME_S
from peers.registry import certificate

pytestmark = pytest.mark.root


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path / "server") as found:
        yield found


@pytest.fixture
def repository(server: GitServer) -> GitRepository:
    found = server.repository("repo")
    found.commit({"Dockerfile": "FROM scratch\nCOPY f /\n", "f": "one\n"})
    return found


@pytest.fixture
def shipline(tmp_path: Path) -> Shipline:
    return Shipline(tmp_path / "home")


def files(archive: Path) -> dict[str, bytes]:
    """The content of the regular files in a tar."""
    with tarfile.open(archive) as tar:
        return {one.name: file.read() for one in tar if (file := tar.extractfile(one))}


def test_a_commit_is_fetched_once_and_named_in_the_metadata(
    server: GitServer, repository: GitRepository, shipline: Shipline, tmp_path: Path
) -> None:
    out, facts = tmp_path / "out.tar", tmp_path / "facts.json"
    url = f"{server.url}/repo.git"
    words = ("-o", f"type=tar,dest={out}", "--metadata-file", str(facts), url)
    shipline.build(*words).ok()
    assert files(out) == {"f": b"one\n"}
    assert json.loads(facts.read_text())["shipline.build.context"] == {
        "uri": url,
        "digest": {"sha1": repository.head},
    }
    asked = len(server.asked)
    done = shipline.build(*words).ok()
    assert "CACHED" in done.err
    assert [one for one in server.asked[asked:] if one.startswith("POST")] == [
        "POST /repo.git/git-upload-pack"  # which commits there are
    ]
    repository.commit({"f": "two\n"})
    shipline.build(*words).ok()
    assert files(out) == {"f": b"two\n"}


def test_the_cache_of_add_is_the_commit(
    server: GitServer, repository: GitRepository, shipline: Shipline, tmp_path: Path
) -> None:
    place = context(tmp_path / "context", f"FROM scratch\nADD {server.url}/repo.git#main /r/\n")
    shipline.build("-o", "type=cacheonly", place).ok()
    repository.git("tag", "same")
    (place / "Dockerfile").write_text(f"FROM scratch\nADD {server.url}/repo.git#main /r/\n# x\n")
    done = shipline.build("-o", "type=cacheonly", place).ok()
    assert "fetch" not in done.err and "CACHED" in done.err


def test_a_token_opens_a_repository_and_is_kept_nowhere(
    server: GitServer, repository: GitRepository, shipline: Shipline, tmp_path: Path
) -> None:
    server.login = "x-access-token:s3cret"
    url, out = f"{server.url}/repo.git", tmp_path / "out.tar"
    words = ("-o", f"type=tar,dest={out}")
    said = shipline.build(*words, url).failed(12)
    assert "asks for a login" in said and "--secret id=GIT_AUTH_TOKEN" in said
    token = ("--secret", "id=GIT_AUTH_TOKEN,env=TOKEN")
    done = shipline.build(*words, *token, url, TOKEN="s3cret").ok()
    assert files(out) == {"f": b"one\n"}
    host = ("--secret", f"id=GIT_AUTH_HEADER.{server.address},env=HEADER")
    header = server.logins[-1]
    again = Shipline(tmp_path / "other")
    again.build(*words, *token, *host, url, TOKEN="wrong", HEADER=header).ok()
    with_login = url.replace("//", "//x-access-token:s3cret@")
    dockerfile = f"FROM scratch\nADD {with_login} /r/\n"
    image = tmp_path / "image"
    place = context(tmp_path / "context", dockerfile)
    (place / ".dockerignore").write_text("Dockerfile\n")
    added = shipline.build("-o", f"type=oci,dest={image}", place).ok()
    named = Shipline(tmp_path / "third").build(*words, with_login).ok()
    for text in (said, done.err, added.err, named.err):
        assert "s3cret" not in text
    kept = [tmp_path / "home", tmp_path / "other", tmp_path / "third"]
    paths = [path for home in kept for path in home.rglob("*") if path.is_file()]
    assert not [path for path in (*paths, image, out) if b"s3cret" in path.read_bytes()]


def test_a_token_opens_a_file_at_a_url(
    server: GitServer, shipline: Shipline, tmp_path: Path
) -> None:
    (server.root / "f").write_text("FROM scratch\nCOPY context /\n")
    place = context(tmp_path / "context", f"FROM scratch\nADD {server.url}/f /\n")
    for name, header in (("TOKEN", "Bearer s3cret"), ("HEADER", "s3cret")):
        secret = ("--secret", f"id=HTTP_AUTH_{name}_127.0.0.1,env=VALUE")
        for source in (str(place), f"{server.url}/f"):
            words = ("-o", "type=cacheonly", *secret, source)
            assert "s3cret" not in shipline.build(*words, VALUE="s3cret\n").ok().err
            assert server.logins.pop() == header
    other = ("--secret", "id=HTTP_AUTH_TOKEN_example.org,env=VALUE")
    shipline.build("-o", "type=cacheonly", *other, place, VALUE="s3cret").ok()
    assert not server.logins


def test_the_authority_of_a_server_can_be_given(shipline: Shipline, tmp_path: Path) -> None:
    tls = certificate(tmp_path, "server")
    with git_server(tmp_path / "tls", tls) as server:
        server.repository("repo").commit({"Dockerfile": "FROM scratch\nLABEL a=b\n"})
        words = ("-o", "type=cacheonly", f"{server.url}/repo.git")
        said = shipline.build(*words).failed(12)
        assert "authority that is not trusted" in said and "--ca FILE" in said
        shipline.build("--ca", str(tls[0]), *words).ok()


def test_the_git_directory_is_kept_on_request(
    server: GitServer, repository: GitRepository, shipline: Shipline, tmp_path: Path
) -> None:
    repository.commit({"Dockerfile": "FROM scratch\nCOPY . /\n"})
    out = tmp_path / "out.tar"
    words = ("-o", f"type=tar,dest={out}", f"{server.url}/repo.git")
    shipline.build(*words).ok()
    assert not [name for name in files(out) if name.startswith(".git/")]
    shipline.build("--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", *words).ok()
    place = tmp_path / "clone"
    with tarfile.open(out) as tar:
        tar.extractall(place, filter="data")
    git = ["git", "-C", str(place), "-c", "safe.directory=*"]
    status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    assert (status.returncode, status.stdout) == (0, "")
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    assert head.stdout.strip() == repository.head


def test_the_time_of_a_context_is_that_of_its_commit(
    server: GitServer, repository: GitRepository, shipline: Shipline, tmp_path: Path
) -> None:
    out = tmp_path / "out.tar"
    output = f"type=docker,rewrite-timestamp=true,dest={out}"
    words = ("--build-arg", "SOURCE_DATE_EPOCH=context", "-o", output)
    shipline.build(*words, f"{server.url}/repo.git").ok()
    assert image_times(out) == {COMMIT_TIME_S}
    (server.root / "file").write_text("FROM scratch\nCOPY context /\n")
    shipline.build(*words, f"{server.url}/file").ok()
    assert image_times(out) == {FILE_TIME_S}


def test_an_image_of_a_layout_is_a_base(shipline: Shipline, tmp_path: Path) -> None:
    base = context(tmp_path / "base", "FROM scratch\nENV A=1\nWORKDIR /w\nCOPY f .\n", f="base")
    layout, out = tmp_path / "layout", tmp_path / "out.tar"
    for tag in ("one", "two"):
        (base / "f").write_text(tag)
        words = ("-t", f"x.example/y:{tag}", "-o", f"type=oci,tar=false,dest={tmp_path / tag}")
        shipline.build(*words, base).ok()
    place = context(tmp_path / "context", "FROM base\nCOPY --from=base f /w/\nCOPY g .\n", g="g")
    (place / "Dockerfile").write_text("FROM base\nCOPY g .\nCOPY --from=base /w/f /copied\n")

    def built(name: str) -> dict[str, bytes]:
        layers = ("-o", f"type=tar,dest={out}", "--build-context", f"base=oci-layout://{name}")
        Shipline(tmp_path / f"home-{os.urandom(3).hex()}").build(*layers, place).ok()
        return files(out)

    whole = {"w/f": b"one", "w/g": b"g", "copied": b"one"}
    before = sorted(str(path) for path in (tmp_path / "one").rglob("*"))
    digest = json.loads((tmp_path / "one/index.json").read_text())["manifests"][0]["digest"]
    for name in ("", ":one", f"@{digest}", ":other"):
        assert built(f"{tmp_path / 'one'}{name}") == whole, name
    assert sorted(str(path) for path in (tmp_path / "one").rglob("*")) == before
    missing = f"base=oci-layout://{tmp_path / 'one'}@sha256:{'0' * 64}"
    said = shipline.build("--build-context", missing, place).failed(8)
    assert "is not in" in said and "Dockerfile:1" in said
    said = shipline.build("--build-context", f"base=oci-layout://{layout}", place).failed(8)
    assert "not an OCI image layout" in said


def test_provenance_calls_an_image_of_a_layout_after_its_context(
    shipline: Shipline, tmp_path: Path
) -> None:
    layout, out = tmp_path / "layout", tmp_path / "out"
    made = ("-o", f"type=oci,tar=false,dest={layout}")
    shipline.build(*made, context(tmp_path / "base", "FROM scratch\nCOPY f .\n", f="f")).ok()
    place = context(tmp_path / "context", "FROM my/base:1\nCOPY g .\n", g="g")
    words = ("--provenance=mode=max", "--build-context", f"my/base:1=oci-layout://{layout}")
    shipline.build("-o", out, *words, place).ok()
    text = (out / "provenance.json").read_text()
    assert '"pkg:oci/my/base@1?digest=sha256:' in text
    assert '"oci-layout://docker.io/my/base:1@sha256:' in text


def test_a_named_context_at_a_url_is_one_file(
    server: GitServer, shipline: Shipline, tmp_path: Path
) -> None:
    (server.root / "a.tar").write_bytes(b"not looked into")
    out = tmp_path / "out.tar"
    place = context(tmp_path / "context", "FROM scratch\nCOPY --from=there . /t/\n")
    named = ("--build-context", f"there={server.url}/a.tar")
    shipline.build("-o", f"type=tar,dest={out}", *named, place).ok()
    assert files(out) == {"t/context": b"not looked into"}


def test_an_unused_named_context_is_not_fetched(
    server: GitServer, shipline: Shipline, tmp_path: Path
) -> None:
    place = context(tmp_path / "context", "FROM scratch\nLABEL a=b\n")
    named = (
        "--build-context",
        f"x={server.url}/none.git",
        "--build-context",
        "y=http://h.invalid/",
    )
    shipline.build("-o", "type=cacheonly", *named, place).ok()
    assert not server.asked


@pytest.mark.parametrize(
    ("name", "content", "status", "named"),
    [
        ("short.tar.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x01", 8, "truncated"),
        ("binary", b"\x7fELF\0\0\0\1\2\3", 2, "neither a Dockerfile nor a context"),
        ("empty", b"", 4, "cannot be empty"),
        ("missing", None, 6, "404"),
    ],
)
def test_what_a_url_cannot_give_is_one_clear_message(
    name: str, content: bytes | None, status: int, named: str, server: GitServer, shipline: Shipline
) -> None:
    if content is not None:
        (server.root / name).write_bytes(content)
    said = shipline.build(f"{server.url}/{name}").failed(status)
    assert named in said
    assert said.count("╭─") == 1


def test_a_bomb_is_refused(server: GitServer, shipline: Shipline) -> None:
    header = tarfile.TarInfo("zeros")
    header.size = 1 << 40
    with (
        (server.root / "bomb.tar.zst").open("wb") as file,
        zstandard.ZstdCompressor().stream_writer(file, closefd=False) as writer,
    ):
        writer.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(1 << 10):
            writer.write(bytes(1 << 20))
    said = shipline.build(f"{server.url}/bomb.tar.zst").failed(8)
    assert "bomb" in said and said.count("╭─") == 1


@pytest.mark.parametrize("words", [("-",), ("-f", "-", ".")])
def test_a_terminal_is_not_read(words: tuple[str, ...], shipline: Shipline) -> None:
    main, child = pty.openpty()
    try:
        done = subprocess.run(
            command(*words), stdin=child, capture_output=True, env=shipline.environ(), timeout=60
        )
    finally:
        os.close(main)
        os.close(child)
    assert done.returncode == 2
    assert b"standard input is a terminal" in done.stderr


def test_both_from_standard_input_are_too_much(shipline: Shipline) -> None:
    said = shipline.build("-f", "-", "-", stdin=b"FROM scratch\n").failed(2)
    assert "cannot both be standard input" in said
