"""COPY --link in caches: its layer is the same on any base."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builds import Shipline, context
from peers import Docker, Registry

pytestmark = pytest.mark.root

LINKED = """\
FROM busybox AS build
RUN cat /proc/sys/kernel/random/uuid > /made
FROM busybox
COPY --link first /first
COPY --link {more}--from=build /made /made
"""
RUN = ("--network", "none")


def place(tmp_path: Path, first: str, more: str = "") -> Path:
    return context(tmp_path / "context", LINKED.format(more=more), first=first)


def made(output: Path) -> str:
    """The text that no two runs of the step make."""
    text = (output / "made").read_text()
    shutil.rmtree(output)
    return text


@pytest.mark.parametrize("more", ["", "--chown=1:2 ", "--exclude=x "])
@pytest.mark.parametrize("kind", ["registry", "inline"])
def test_a_change_below_leaves_a_linked_copy_cached(
    base_images: Registry, tmp_path: Path, kind: str, more: str
) -> None:
    """With mode=min, where the step that made the file is in no cache."""
    name, output = f"{base_images.address}/linked/{tmp_path.name}".lower(), tmp_path / "out"
    cache = f"{name}:cache" if kind == "registry" else f"{name}:image"
    outputs = ("-o", f"type=local,dest={output}", "-o", f"type=registry,name={name}:image")
    to = f"type=registry,ref={cache}" if kind == "registry" else "type=inline"
    words = (*RUN, *outputs, "--cache-to", to)
    first, second = (Shipline(tmp_path / home, base_images.address) for home in "ab")
    first.build(*words, place(tmp_path, "1", more)).ok()
    known = made(output)
    second.build(*words, "--cache-from", cache, place(tmp_path, "2", more)).ok()
    assert (output / "first").read_text() == "2"
    assert made(output) == known


@pytest.mark.peers
def test_buildkit_finds_the_linked_copies_of_ours_and_we_find_its(
    docker: Docker, base_images: Registry, tmp_path: Path
) -> None:
    writing, reading = (Shipline(tmp_path / home, base_images.address) for home in "ab")
    name, output = f"{base_images.address}/linked/both", tmp_path / "out"

    def buildx(*words: str | Path) -> str:
        assert docker.run("buildx", "prune", "--all", "--force").returncode == 0
        done = docker.run("buildx", "build", *RUN, "-o", output, *words)
        assert done.returncode == 0, done.stdout
        return made(output)

    before = place(tmp_path, "1")
    theirs = buildx("--cache-to", f"type=registry,ref={name}:theirs", before)
    writing.build(*RUN, "-o", output, "--cache-to", f"type=registry,ref={name}:ours", before).ok()
    ours = made(output)
    after = place(tmp_path, "2")
    assert buildx("--cache-from", f"{name}:ours", after) == ours
    reading.build(*RUN, "-o", output, "--cache-from", f"{name}:theirs", after).ok()
    assert made(output) == theirs
