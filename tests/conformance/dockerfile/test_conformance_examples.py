"""Every example does what its README says, and makes the image that a real BuildKit makes of it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from corpus.difference import CONFIG, LAYERS, LINKS, TREE, compare
from corpus.image import read_images

from builds import Shipline
from commands import run_shipline
from nodes import Node, node
from peers import Docker, Registry, can_run_arm64, git_server, push_base_images

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
pytestmark = [pytest.mark.peers, pytest.mark.root]

REPOSITORY = """
FROM alpine:3.23 AS made
COPY key.rsa /key/tests.rsa
COPY key.rsa.pub /etc/apk/keys/tests.rsa.pub
RUN mkdir -p /files/sbin && printf '#!/bin/sh\\nshift\\nexec "$@"\\n' > /files/sbin/tini \\
 && chmod 755 /files/sbin/tini
RUN for arch in x86_64 aarch64; do mkdir -p /repository/$arch && cd /repository/$arch \\
 && apk mkpkg --sign-key /key/tests.rsa --files /files --info name:tini --info version:0.19.0-r3 \\
        --info arch:$arch --info license:MIT --info description:init --output tini-0.19.0-r3.apk \\
 && apk mkndx --sign-key /key/tests.rsa --output APKINDEX.tar.gz *.apk || exit 1; done
FROM scratch AS repository
COPY --from=made /repository /
FROM alpine:3.23
COPY key.rsa.pub /etc/apk/keys/tests.rsa.pub
COPY repositories /etc/apk/repositories
"""
"""Alpine whose package repository is here, and that repository, made by Alpine's own apk."""


@dataclass(frozen=True)
class Example:
    """Its base images, and what `docker run` of its README says; the peer builds `platforms`."""

    bases: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    platforms: str = "linux/amd64,linux/arm64"


ALL = {
    "alpine": Example(
        says=("built as x86_64, running on x86_64", "as aarch64, running on aarch64")
    ),
    "go": Example(("golang",), ("columns 1.0 linux/amd64",), "linux/arm64"),
    "python": Example(("python",), ('{"to": 2, "be": 2, "or": 1, "not": 1}',)),
    "static-site": Example(("node",), ("<strong>Node.js</strong>",)),
    "hello": Example(),
    "node-app": Example(("node",), platforms="linux/amd64"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, base_images: Registry) -> Iterator[World]:
    """The registry that READMEs push to; Alpine's packages come from here."""
    if not shutil.which("npm") or not can_run_arm64():
        pytest.skip("needs npm and an emulator of arm64")
    work = tmp_path_factory.mktemp("examples")
    with node(work / "registry") as found, git_server(work / "served") as server:
        shipline = Shipline(work / "home", base_images.address)
        place = work / "alpine"
        place.mkdir()
        key = place / "key.rsa"
        words: list[str | Path] = ["openssl", "genrsa", "-out", key, "2048"]
        subprocess.run(words, check=True, capture_output=True)
        words = ["openssl", "rsa", "-in", key, "-pubout", "-out", f"{key}.pub"]
        subprocess.run(words, check=True, capture_output=True)
        (place / "Dockerfile").write_text(REPOSITORY)
        (place / "repositories").write_text(f"{server.url}/packages\n")
        packages = work / "served/packages"
        shipline.build("--target", "repository", "-o", packages, place).ok()
        name = f"{found.address}/library/alpine:3.23"
        shipline.push(place, name)
        yield World(found, base_images, shipline, Shipline(work / "home", found.address))


@dataclass(frozen=True)
class World:
    """`node` is the registry of the examples, with the Alpine of REPOSITORY in it, which is that of
    `with_alpine`; `plain` has the other base images.
    """

    node: Node
    bases: Registry
    plain: Shipline
    with_alpine: Shipline

    def prepare(self, example: Example) -> Shipline:
        """The program, with the base images of the example under their names."""
        if example.bases:
            push_base_images(self.bases, *example.bases)
        return self.with_alpine if example is ALL["alpine"] else self.plain

    def run(self, shipline: Shipline, command: str, place: Path) -> str:
        """What a command of the program says, in `place`."""
        words = shlex.split(command)[1:]
        if words[0] == "build":  # the packages are on the loopback address
            words.insert(1, "--network=host")
        done = run_shipline(*words, cwd=place, environ=shipline.environ(), timeout_s=300)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout


def commands(readme: Path, registry: str) -> list[str]:
    """The commands of the first block, with `registry` in the place of the one that they start."""
    block = re.search(r"^```\n(.*?)^```$", readme.read_text(), re.M | re.S)
    assert block is not None, readme
    lines = block[1].replace("127.0.0.1:5000", registry).splitlines()
    return [one for one in lines if not one.startswith(("shipline registry serve ", "apt-get "))]


@pytest.mark.parametrize("name", [name for name, one in ALL.items() if one.says])
def test_an_example_does_what_its_readme_says(name: str, world: World, docker: Docker) -> None:
    example, place = ALL[name], EXAMPLES / name
    shipline, said = world.prepare(example), []
    for command in commands(place / "README.md", world.node.address):
        if command.startswith("docker "):
            done = docker.run(*shlex.split(command)[1:])
            assert done.returncode == 0, done.stdout
            said.append(done.stdout)
            continue
        shown = world.run(shipline, command, place)
        if "imagetools inspect" in command:
            assert "linux/amd64" in shown and "linux/arm64" in shown
    assert len(said) == len(example.says)
    for got, wanted in zip(said, example.says, strict=True):
        assert wanted in got


@pytest.mark.parametrize("name", ALL)
def test_an_example_is_the_image_that_buildkit_makes(
    name: str, world: World, docker: Docker
) -> None:
    example, place = ALL[name], EXAMPLES / name
    shipline = world.prepare(example)
    words = ["--platform", example.platforms, "--push", "-t", f"{world.node.address}/same/{name}"]
    flags = ["--network=host", "--provenance=false"]
    alpine = f"alpine:3.23=docker-image://{world.node.address}/library/alpine:3.23"
    # the frontend of the first line is not to be had here: BuildKit takes its own
    dockerfile = (place / "Dockerfile").read_bytes().replace(b"# syntax=docker/dockerfile:1\n", b"")
    theirs = ("buildx", "build", *flags, "--build-context", alpine, "-f", "-", *words[:-1])
    done = docker.run(*theirs, f"{words[-1]}:theirs", place, input=dockerfile)
    assert done.returncode == 0, done.stdout[-4000:]
    shipline.build(*flags, *words[:-1], f"{words[-1]}:ours", place).ok()
    want, got = (read_images(world.node.address, f"same/{name}", tag) for tag in ("theirs", "ours"))
    kinds = (TREE, LINKS, CONFIG, LAYERS)  # HEALTHCHECK is noted as by a newer BuildKit
    assert [str(one) for one in compare(want, got) if one.kind in kinds] == []


def test_every_example_is_tested() -> None:
    assert {file.parent.name for file in EXAMPLES.glob("*/Dockerfile")} == set(ALL)
    assert {name for name, one in ALL.items() if one.says} | {"hello", "node-app"} == set(ALL)
