"""The two builders under comparison: each builds a case and pushes the image."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Protocol

from commands import run_shipline
from corpus.case import Case
from corpus.context import write
from corpus.entry import Entry
from corpus.image import Image, read_images
from peers import Docker, GitServer, Registry
from shipline.values import replace

TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of building a case: images by platform when `ok`, and the builder's output."""

    ok: bool
    output: str
    seconds: float
    images: Mapping[str, Image] = field(default_factory=dict)


class Builder(Protocol):
    """A way to build a case; never raises for a build that fails."""

    def build(self, case: Case) -> Outcome: ...


@dataclass(frozen=True)
class BuildKit:
    """`docker buildx build` in an engine that has `registry` as its mirror.

    Without cache, since BuildKit's keys know no times; and each context has a name of its own,
    since BuildKit takes files of equal name, size and time over from the context of that name.
    No tag is used twice: the engine would delete snapshots while other builds unpack onto them.
    """

    docker: Docker
    registry: Registry
    server: GitServer

    def build(self, case: Case) -> Outcome:
        with TemporaryDirectory(prefix="corpus-") as temporary:
            work = Path(temporary)
            prepared = _prepare(case, work, self.server)
            for name, dockerfile in case.images.items():
                reference = f"{self.registry.address}/library/{name}"
                done = self._build(
                    "-",
                    reference,
                    ["--platform", ",".join(case.platforms)],
                    str(work / case.name),
                    dockerfile.encode(),
                )
                if done.returncode:
                    return Outcome(False, f"image {name}: {done.stdout}", 0)
            start, repository, tag = time.monotonic(), f"buildkit/{case.name}", token_hex(4)
            reference = f"{self.registry.address}/{repository}:{tag}"
            done = self._build("", reference, prepared.flags, prepared.context, prepared.stdin)
        return _outcome(done, start, self.registry, repository, tag)

    def _build(
        self, file: str, reference: str, flags: list[str], context: str, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        words = ["buildx", "build", "--provenance=false", "--network=none", "--no-cache", "--push"]
        words += ["-t", reference, *(["-f", file] if file else []), *flags, context]
        return self.docker.run(*words, input=stdin, timeout_s=TIMEOUT_S)


@dataclass(frozen=True)
class Shipline:
    """`shipline build` with `registry` as mirror of Docker Hub and its state in `home`, of which
    only a `warm` one takes cached results; or by the builder that variables (`through`) choose.
    """

    registry: Registry
    home: Path
    server: GitServer
    warm: bool = False
    through: Mapping[str, str] = field(default_factory=dict)

    def build(self, case: Case) -> Outcome:
        environment = {
            **os.environ,
            "SHIPLINE_HOME": str(self.home),
            "SHIPLINE_MIRRORS": f"docker.io={self.registry.url}",
            **self.through,
        }
        reference = f"{self.registry.address}/shipline/{case.name}"
        words = ["build", "--push", *([] if self.warm else ["--no-cache"]), "-t", reference]
        words += ["--network=none"] if self.through else []
        with TemporaryDirectory(prefix="corpus-") as temporary:
            prepared = _prepare(case, Path(temporary), self.server)
            start = time.monotonic()
            done = run_shipline(
                *(*words, *prepared.flags, prepared.context),
                environ=environment,
                timeout_s=TIMEOUT_S,
                stdin=prepared.stdin,
            )
        done.stdout += done.stderr
        return _outcome(done, start, self.registry, f"shipline/{case.name}", "latest")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a builder is called with."""

    flags: list[str]
    context: str
    stdin: bytes = b""


def _prepare(case: Case, work: Path, server: GitServer) -> Prepared:
    """Write context and secrets below `work`, and what is served below the server's root."""
    place, served = work / case.name, server.root / case.name
    urls = {
        "GIT_URL": f"{server.url}/{case.name}.git",
        "FILES_URL": f"{server.url}/{case.name}",
        "TAR_URL": f"{server.url}/{case.name}.tar",
    }
    write([_addressed(entry, urls) for entry in case.entries], place)
    tar = _tar(place) if "TAR_URL" in case.context or case.context == "-" else b""
    if case.served and not served.exists():
        shutil.copytree(place, served, symlinks=True)
        served.with_suffix(".tar").write_bytes(tar)
        repository = server.repository(case.name)
        shutil.copytree(place, repository.path, symlinks=True, dirs_exist_ok=True)
        repository.commit()
        repository.git("tag", "v1")
    flags = [flag.replace("CONTEXT/", f"{place}/") for flag in case.flags]
    flags = [_replaced(flag, urls) for flag in flags]
    for name, content in case.secrets.items():
        path = work / f"secret-{name}"
        path.write_text(content)
        flags += ["--secret", f"id={name},src={path}"]
    if "--platform" not in flags:
        flags += ["--platform", ",".join(case.platforms)]
    context = _replaced(case.context, urls) or str(place)
    return Prepared(flags, context, tar if case.context == "-" else b"")


def _replaced(text: str, urls: Mapping[str, str]) -> str:
    for word, url in urls.items():
        text = text.replace(word, url)
    return text


def _addressed(entry: Entry, urls: Mapping[str, str]) -> Entry:
    data = os.fsencode(_replaced(os.fsdecode(entry.data), urls))
    return replace(entry, data=data)


def _tar(place: Path) -> bytes:
    """A tar of the directory; BuildKit looks for one in 1,024 bytes, too few for PAX headers."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(place.rglob("*")):
            tar.add(path, path.relative_to(place), recursive=False)
    return out.getvalue()


def _outcome(
    done: subprocess.CompletedProcess[str],
    start: float,
    registry: Registry,
    repository: str,
    tag: str,
) -> Outcome:
    seconds = time.monotonic() - start
    if done.returncode:
        return Outcome(False, done.stdout, seconds)
    try:
        images = read_images(registry.address, repository, tag)
    except LookupError as damage:
        return Outcome(False, f"the image cannot be read: {damage}", seconds)
    return Outcome(True, done.stdout, seconds, images)
