"""`shipline build` as a user runs it: a process of its own, a home of its own, and what it left."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from commands import run_shipline

TIMEOUT_S = 300
PLATFORMS = "linux/amd64,linux/arm64"


class Addressed(Protocol):
    """A registry on loopback."""

    @property
    def address(self) -> str: ...


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    def ok(self) -> Done:
        assert self.status == 0, self.err
        return self

    def failed(self, status: int) -> str:
        """What it said, when it ended as it should: a message, and never a traceback."""
        assert self.status == status, f"status {self.status}\n{self.err[-4000:]}"
        assert "Traceback" not in self.err, self.err[-4000:]
        return self.err


@dataclass(frozen=True)
class Shipline:
    """The command with `home` as its state; base images come from `mirror`."""

    home: Path
    mirror: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def environ(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SHIPLINE_", "DOCKER_"))}
        return {
            **kept,
            "SHIPLINE_HOME": str(self.home),
            "SHIPLINE_MIRRORS": f"docker.io=http://{self.mirror}" if self.mirror else "",
            "DOCKER_CONFIG": str(self.home / "docker"),
            **self.environment,
        }

    def start(self, *words: str | Path, **environment: str) -> subprocess.Popen[bytes]:
        """Begin a build in a process that knows nothing of this one."""
        return subprocess.Popen(
            command(*words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environ() | environment,
        )

    def build(self, *words: str | Path, stdin: bytes = b"", **environment: str) -> Done:
        environ = self.environ() | environment
        done = run_shipline("build", *words, environ=environ, stdin=stdin, timeout_s=TIMEOUT_S)
        return Done(done.returncode, done.stdout, done.stderr)

    def push(self, context: Path, *names: str) -> Done:
        """Build for both platforms and push, plainly shown. Raises AssertionError if it fails."""
        tags = [word for name in names for word in ("-t", name)]
        words = ("--platform", PLATFORMS, "--progress", "plain", "--push", *tags)
        return self.build(*words, context).ok()


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "shipline", "build", *map(str, words)]


def context(place: Path, dockerfile: str, **files: str) -> Path:
    """A directory with a Dockerfile and files; `__` in a keyword stands for a dot."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "Dockerfile").write_text(dockerfile)
    for name, content in files.items():
        (place / name.replace("__", ".")).write_text(content)
    return place


def leftovers(home: Path, word: str = "") -> list[str]:
    """What a build left behind: scratch, mounts of the host, processes that know `home`, or that
    have `word` in their command line.
    """
    tmp = home / "tmp"
    found = [str(path) for path in tmp.iterdir()] if tmp.is_dir() else []
    for pattern in ("**/.new-*", "content/blobs/.ingest-*", "toc/*.*"):
        found += map(str, home.glob(pattern))
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [line for line in mounts if f"{home}/" in line]
    return found + processes(home, word)


def processes(home: Path, word: str = "") -> list[str]:
    """Living processes that were started with `home` or `word`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        knows = f"SHIPLINE_HOME={home}\0".encode() in environment
        if knows or (word and word.encode() in arguments):
            found.append(f"process {entry.name}: {arguments.decode(errors='replace')}")
    return found


def get(registry: Addressed, path: str) -> tuple[int, bytes]:
    """A document of the registry, as a client that speaks OCI gets it."""
    accept = ",".join(f"application/vnd.oci.image.{kind}.v1+json" for kind in ("index", "manifest"))
    connection = http.client.HTTPConnection(registry.address, timeout=60)
    try:
        connection.request("GET", path, headers={"Accept": accept})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def document(registry: Addressed, repository: str, reference: str) -> dict[str, Any]:
    """A manifest or an index. Raises AssertionError where there is none."""
    status, body = get(registry, f"/v2/{repository}/manifests/{reference}")
    assert status == 200, (status, body)
    found: dict[str, Any] = json.loads(body)
    return found


def manifests(registry: Addressed, repository: str, tag: str) -> dict[str, dict[str, Any]]:
    """The manifests of an image by architecture."""
    index = document(registry, repository, tag)
    return {
        one["platform"]["architecture"]: document(registry, repository, one["digest"])
        for one in index["manifests"]
    }


def config(registry: Addressed, repository: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that a manifest names."""
    status, body = get(registry, f"/v2/{repository}/blobs/{manifest['config']['digest']}")
    assert status == 200
    found: dict[str, Any] = json.loads(body)
    return found


def tags(registry: Addressed, repository: str) -> list[str]:
    """All tags; none where there is no such repository."""
    status, body = get(registry, f"/v2/{repository}/tags/list")
    return list(json.loads(body).get("tags") or []) if status == 200 else []


def statements(registry: Addressed, repository: str, tag: str) -> list[dict[str, Any]]:
    """What is stated about the first image of an index."""
    entries = document(registry, repository, tag)["manifests"]
    image = entries[0]["digest"]
    about = (one for one in entries if image in one.get("annotations", {}).values())
    layers = document(registry, repository, next(about)["digest"])["layers"]
    return [blob(registry, repository, layer["digest"]) for layer in layers]


def blob(registry: Addressed, repository: str, digest: str) -> Any:
    """A blob that is JSON. Raises AssertionError where there is none."""
    status, body = get(registry, f"/v2/{repository}/blobs/{digest}")
    assert status == 200
    return json.loads(body)


def image_times(archive: Path) -> set[float]:
    """The times in the configuration of an archive's image, in seconds since 1970."""
    with tarfile.open(archive) as tar:

        def document(name: str) -> Any:
            file = tar.extractfile(name)
            assert file is not None
            return json.load(file)

        (image,) = document("manifest.json")
        config = document(image["Config"])
    texts = [config["created"], *(one["created"] for one in config["history"])]
    return {datetime.fromisoformat(text).timestamp() for text in texts}
