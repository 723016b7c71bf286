"""The two builders under comparison: each builds a case and pushes the image."""

from __future__ import annotations

import os
import subprocess
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
from corpus.image import Image, read_images
from peers import Docker, Registry

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

    def build(self, case: Case) -> Outcome:
        with TemporaryDirectory(prefix="corpus-") as temporary:
            work = Path(temporary)
            flags = _prepare(case, work)
            for name, dockerfile in case.images.items():
                reference = f"{self.registry.address}/library/{name}"
                done = self._build(
                    "-",
                    reference,
                    ["--platform", ",".join(case.platforms)],
                    work / case.name,
                    dockerfile.encode(),
                )
                if done.returncode:
                    return Outcome(False, f"image {name}: {done.stdout}", 0)
            start, repository, tag = time.monotonic(), f"buildkit/{case.name}", token_hex(4)
            reference = f"{self.registry.address}/{repository}:{tag}"
            done = self._build("", reference, flags, work / case.name)
        return _outcome(done, start, self.registry, repository, tag)

    def _build(
        self, file: str, reference: str, flags: list[str], context: Path, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        words = ["buildx", "build", "--provenance=false", "--network=none", "--no-cache", "--push"]
        words += ["-t", reference, *(["-f", file] if file else []), *flags, str(context)]
        return self.docker.run(*words, input=stdin, timeout_s=TIMEOUT_S)


@dataclass(frozen=True)
class Shipline:
    """`shipline build` with `registry` as mirror of Docker Hub and its state in `home`, of which
    only a `warm` one takes cached results.
    """

    registry: Registry
    home: Path
    warm: bool = False

    def build(self, case: Case) -> Outcome:
        environment = {
            **os.environ,
            "SHIPLINE_HOME": str(self.home),
            "SHIPLINE_MIRRORS": f"docker.io={self.registry.url}",
        }
        reference = f"{self.registry.address}/shipline/{case.name}"
        words = ["build", "--push", *([] if self.warm else ["--no-cache"]), "-t", reference]
        with TemporaryDirectory(prefix="corpus-") as temporary:
            flags = _prepare(case, Path(temporary))
            start = time.monotonic()
            done = run_shipline(
                *(*words, *flags, f"{temporary}/{case.name}"),
                environ=environment,
                timeout_s=TIMEOUT_S,
            )
        done.stdout += done.stderr
        return _outcome(done, start, self.registry, f"shipline/{case.name}", "latest")


def _prepare(case: Case, work: Path) -> list[str]:
    """Write context and secrets below `work`; the flags that both builders take."""
    write(case.entries, work / case.name)
    flags = [flag.replace("CONTEXT/", f"{work}/{case.name}/") for flag in case.flags]
    for name, content in case.secrets.items():
        path = work / f"secret-{name}"
        path.write_text(content)
        flags += ["--secret", f"id={name},src={path}"]
    if "--platform" not in flags:
        flags += ["--platform", ",".join(case.platforms)]
    return flags


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
