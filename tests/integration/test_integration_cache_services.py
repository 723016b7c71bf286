"""Caches in services: what BuildKit wrote there our stores read, and the other way round."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import context
from caches import github_place
from peers import ActionsCache, Docker, actions_cache
from shipline.content import MemoryStore, fetch_all
from shipline.oci import Descriptor, Digest
from shipline.registry import Client

pytestmark = [pytest.mark.peers, pytest.mark.root]
STEPS = """
FROM busybox
WORKDIR /work
COPY page.html .
RUN dd if=/dev/urandom of=large bs=1M count=9
"""


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    return context(tmp_path / "steps", STEPS, page__html="hello\n")


@pytest.fixture
def second_service() -> Iterator[ActionsCache]:
    with actions_cache() as running:
        yield running


def build(docker: Docker, *words: str | Path) -> str:
    docker.run("builder", "prune", "--all", "--force")
    done = docker.run("buildx", "build", "--network=none", "--output=type=cacheonly", *words)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_buildkit_and_our_store_read_each_others_actions_cache(
    docker: Docker, github_cache: ActionsCache, second_service: ActionsCache, steps: Path
) -> None:
    theirs, ours = github_place(github_cache), github_place(second_service)
    build(docker, "--cache-to", f"{theirs.flag()},mode=max", steps)
    with Client() as client:
        written, copy = theirs.open(client), ours.open(client)
        (document,) = written.documents()
        layers = json.loads(document)["layers"]
        assert len(layers) == 4
        for layer in layers:
            kept = layer["annotations"]
            target = Descriptor(kept["mediaType"], Digest.parse(layer["blob"]), kept["size"])
            blob = fetch_all(written, target, 1 << 30)
            copy.push(target, MemoryStore(blob))
        copy.update(lambda _: document)
    output = build(docker, "--cache-from", ours.flag(), steps)
    assert output.count("CACHED") == 3, output
