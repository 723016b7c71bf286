"""A secret, however it is given, is in nothing that a build writes, sends or says."""

from __future__ import annotations

import base64
import json
import re
import secrets
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard

from builds import Done, Shipline, context
from openssh import CLIENT, client_context, make_key
from peers import Account, GitServer, Registry, docker_registry, git_server

pytestmark = [pytest.mark.peers, pytest.mark.root]

DOCKERFILE = f"""
FROM busybox
ADD {{git}}/repo.git /git/
ADD {{web}}/hello.txt /login/
ADD http://localhost:{{port}}/files/hello.txt /token/
ARG PLAIN_TOKEN
RUN --mount=type=secret,id=file --mount=type=secret,id=env,env=ENV \\
    test -n "$ENV" && grep -q . /run/secrets/file && test -n "$HTTP_PROXY" && echo $PLAIN_TOKEN
RUN --mount=type=ssh {CLIENT} /openssh/ssh-add -l > /keys
RUN --mount=type=secret,id=file --mount=type=cache,target=/c test -s /run/secrets/file && touch /c/f
"""


@dataclass
class Given:
    """What a test gives to a build, by how it is given; `visible` is no secret, by design."""

    values: dict[str, str]
    visible: str

    def forms(self) -> Iterator[tuple[str, bytes]]:
        """Each value as it is, in base64 at any offset, and percent-encoded."""
        for name, value in self.values.items():
            yield name, value.encode()
            for shift in range(3):
                coded = base64.b64encode(b":" * shift + value.encode())
                yield f"{name} in base64", coded[4 if shift else 0 : -4]


@pytest.fixture
def given() -> Given:
    names = ("file", "env", "git", "web", "http", "registry", "proxy")
    values = {name: f"{name}-{secrets.token_hex(12)}" for name in names}
    return Given(values, f"visible-{secrets.token_hex(12)}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path / "server") as found:
        found.repository("repo").commit({"f": "one\n"})
        (found.root / "files").mkdir()
        (found.root / "files/hello.txt").write_text("hello\n")
        yield found


@pytest.fixture
def private(tmp_path: Path, given: Given) -> Iterator[Registry]:
    account = Account("alice", given.values["registry"])
    with docker_registry(tmp_path, account=account, name="private") as found:
        yield found


def contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and what they are compressed from."""
    raw = path.read_bytes()
    yield raw
    if raw.startswith(b"\x1f\x8b"):
        while raw.startswith(b"\x1f\x8b"):
            member = zlib.decompressobj(wbits=31)
            yield member.decompress(raw)
            raw = member.unused_data
    elif raw.startswith(b"\x28\xb5\x2f\xfd"):
        yield zstandard.ZstdDecompressor().decompressobj().decompress(raw)


def found_in(given: Given, *places: Path, said: bytes) -> list[str]:
    """Where a secret is: in files, in their names, or in what was said."""
    forms = list(given.forms())
    found = [f"{name}: said" for name, value in forms if value in said]
    for path in (path for place in places for path in (place, *place.rglob("*"))):
        found += [f"{name}: {path}" for name, value in forms if value in str(path).encode()]
        if path.is_file() and not path.is_symlink():
            for raw in contents(path):
                found += [f"{name}: {path}" for name, value in forms if value in raw]
    return found


def build(
    given: Given, server: GitServer, registry: Registry, place: Path, home: Path, mirror: str
) -> tuple[Done, list[Path]]:
    """A build that is given every secret and writes everything that it can; what it wrote."""
    values, work = given.values, place.parent
    (work / "secret").write_text(values["file"])
    (work / "config").mkdir(exist_ok=True)
    login = base64.b64encode(f"alice:{values['registry']}".encode()).decode()
    auths = {"auths": {registry.address: {"auth": login}}}
    (work / "config/config.json").write_text(json.dumps(auths))
    proxy = f"http://me:{values['proxy']}@127.0.0.1:1"
    written = [home, work / "cache", work / "image.tar", work / "meta.json", registry.data]
    words = [
        *("--network=none", "--progress=rawjson", "--provenance=mode=max", "--sbom=true"),
        *("--secret", f"id=file,src={work}/secret", "--secret", "id=env,env=ENV"),
        *("--secret", "id=GIT_AUTH_TOKEN,env=GIT_TOKEN"),
        *("--secret", "id=HTTP_AUTH_TOKEN_localhost,env=HTTP_TOKEN"),
        *("--ssh", f"default={work / 'ed25519-256'}", "--build-context", f"openssh={work}/client"),
        *("--build-arg", f"HTTP_PROXY={proxy}", "--build-arg", f"PLAIN_TOKEN={given.visible}"),
        *("--cache-to", f"type=local,dest={work}/cache,mode=max,mounts=true"),
        *("--cache-to", f"type=registry,ref={registry.address}/c:cache,mode=max"),
        *("--cache-from", f"type=registry,ref={registry.address}/c:cache"),
        *("--metadata-file", f"{work}/meta.json", "-o", f"type=oci,dest={work}/image.tar"),
        *("--push", "-t", f"{registry.address}/c:image", str(place)),
    ]
    done = Shipline(home, mirror).build(
        *words,
        ENV=values["env"],
        GIT_TOKEN=values["git"],
        HTTP_TOKEN=values["http"],
        BUILDX_METADATA_PROVENANCE="max",
        DOCKER_CONFIG=str(work / "config"),
    )
    return done, written


def test_no_secret_is_in_anything_that_a_build_writes_or_says(
    given: Given, server: GitServer, private: Registry, base_images: Registry, tmp_path: Path
) -> None:
    key = make_key(tmp_path).read_text()
    given.values["ssh"] = max(re.findall(r"^[A-Za-z0-9+/=]{50,}$", key, re.MULTILINE), key=len)
    client_context(tmp_path / "client")
    values = given.values
    server.login = f"x-access-token:{values['git']}"
    text = DOCKERFILE.format(
        git=server.url,
        web=server.url.replace("//", f"//x-access-token:{values['git']}@") + "/files",
        port=0,
    )
    text = re.sub("ADD http://localhost.*\n", "", text)
    place = context(tmp_path / "context", text)
    for number in range(2):  # the second reads what the first has written
        home = tmp_path / f"home{number}"
        done, written = build(given, server, private, place, home, base_images.address)
        done.ok()
        said = (done.out + done.err).encode()
        assert found_in(given, *written, said=said) == []
    visible = Given({"build argument": given.visible}, "")
    assert found_in(visible, *written, said=said), "as documented; and the search finds things"


def test_a_failing_build_tells_no_secret(
    given: Given, server: GitServer, private: Registry, base_images: Registry, tmp_path: Path
) -> None:
    make_key(tmp_path)
    client_context(tmp_path / "client")
    server.login = "x-access-token:another"
    text = DOCKERFILE.format(git=server.url, web=server.url, port=server.address.rpartition(":")[2])
    place = context(tmp_path / "context", text)
    home = tmp_path / "home"
    done, written = build(given, server, private, place, home, base_images.address)
    assert done.status not in (0, 1) and "Traceback" not in done.err
    said = (done.out + done.err).encode()
    assert found_in(given, *(one for one in written if one.exists()), said=said) == []
