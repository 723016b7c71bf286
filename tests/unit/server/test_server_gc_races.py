"""Garbage collection during pushes, mounts, attachments and deletions loses nothing
acknowledged.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from directories import CONFIG, LAYER, Directory

from shipline.oci import Descriptor, Digest, Index, Manifest, parse_manifest
from shipline.server.fsck import CheckSummary, check
from shipline.server.gc import GcOptions, collect
from shipline.server.problems import Problem
from shipline.server.routes.blobs import check_unneeded
from shipline.units import Duration

pytestmark = pytest.mark.slow

A, B = b"a" * 5000, b"b" * 6000


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Directory]:
    opened = Directory(tmp_path)
    yield opened
    opened.close()


@pytest.mark.parametrize("untagged", [False, True])
@pytest.mark.parametrize("by_tag", [False, True])
def test_an_image_that_comes_back_keeps_its_signatures(
    node: Directory, monkeypatch: pytest.MonkeyPatch, by_tag: bool, untagged: bool
) -> None:
    """It is pushed again after the collection has found them, before it takes them."""
    image = node.image("repo", [A], "v1")
    tag = str(image.digest).replace(":", "-") + ".sig"
    signature = node.image("repo", [B], tag) if by_tag else node.image("repo", [B], subject=image)
    node.later()
    node.manifests.delete("repo", image.digest)
    exclusive = node.storage.exclusive

    def push_first() -> AbstractContextManager[None]:
        monkeypatch.setattr(node.storage, "exclusive", exclusive)
        node.image("repo", [A], "v1")
        return exclusive()

    monkeypatch.setattr(node.storage, "exclusive", push_first)
    node.collect(untagged=untagged)
    assert node.has("repo", signature)
    if by_tag:
        assert node.manifests.get("repo", tag) is not None


_REMOVED, _STEPS = 40, 60
_LONGEST_S = 60.0


@dataclass
class Client:
    """Pushes into repositories that others push into too; `tagged` and `attached` must stay."""

    node: Directory
    name: str
    grace_s: float
    tagged: dict[tuple[str, str], Descriptor] = field(default_factory=dict)
    attached: dict[tuple[str, Digest], list[Descriptor]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    done: int = 0

    def run(self, stop: threading.Event) -> None:
        chance = random.Random(self.name)
        try:
            while not stop.is_set():
                self.step(chance)
                self.forget()
        except Exception as error:
            self.faults.append(f"{self.name}: {error!r}")

    def step(self, chance: random.Random) -> None:
        self.done += 1
        repository, tag = chance.choice(("one", "two")), f"{self.name}-{chance.randrange(6)}"
        found = self.tagged.get((repository, tag))
        if found is None or chance.random() < 0.4:
            self.push(chance, repository, tag)
        elif chance.random() < 0.5:
            self.attach(chance, repository, found)
        elif chance.random() < 0.5:
            self.tagged.pop((repository, tag))
            self.node.manifests.untag(repository, tag)
        else:
            self.delete(repository, found)

    def push(self, chance: random.Random, repository: str, tag: str) -> None:
        began = time.monotonic()
        try:
            target = self.image(chance, repository)
            if chance.random() < 0.4:
                other = self.image(chance, repository)
                index = Index.make([target, other])
                self.node.manifests.put(repository, index.descriptor.digest, index, (tag,))
                target = index.descriptor
            else:
                content = self.read(repository, target)
                self.node.manifests.put(repository, target.digest, content, (tag,))
        except Problem as problem:
            if time.monotonic() - began < self.grace_s / 2:
                self.faults.append(f"{self.name}: {problem.message}")
            return
        self.tagged[repository, tag] = target

    def image(
        self, chance: random.Random, repository: str, subject: Descriptor | None = None
    ) -> Descriptor:
        """Of layers that others push too, and a configuration of one's own."""
        layers = [bytes([chance.randrange(5)]) * 3000 for _ in range(2)]
        config = json.dumps([self.name, chance.randrange(4)]).encode()
        for content in (config, *layers):
            self.bring(repository, content)
        parts = [Descriptor.of(layer, LAYER) for layer in layers]
        made = Manifest.make(Descriptor.of(config, CONFIG), parts, subject=subject)
        self.node.manifests.put(repository, made.descriptor.digest, made)
        return made.descriptor

    def bring(self, repository: str, content: bytes) -> None:
        """As clients do it: ask, else mount, else push."""
        digest, storage = Digest.of(content), self.node.storage
        found = storage.open_blob(repository, digest)
        if found is not None:
            os.close(found.fd)
        elif not storage.mount(digest, repository, None):
            self.node.blob(repository, content)

    def read(self, repository: str, target: Descriptor) -> Manifest:
        stored = self.node.manifests.get(repository, target.digest)
        assert stored is not None, f"{target.digest} was pushed a moment ago"
        parsed = parse_manifest(stored.raw)
        assert isinstance(parsed, Manifest)
        return parsed

    def attach(self, chance: random.Random, repository: str, image: Descriptor) -> None:
        began = time.monotonic()
        try:
            made = self.image(chance, repository, subject=image)
        except Problem as problem:
            if time.monotonic() - began < self.grace_s / 2:
                self.faults.append(f"{self.name}: {problem.message}")
            return
        self.attached.setdefault((repository, image.digest), []).append(made)

    def delete(self, repository: str, image: Descriptor) -> None:
        check = partial(check_unneeded, self.node.storage, repository, image.digest)
        try:
            self.node.manifests.delete(repository, image.digest, check=check)
        except Problem:
            return  # an index lists it
        for key in [key for key, one in self.tagged.items() if one.digest == image.digest]:
            if key[0] == repository:
                del self.tagged[key]

    def forget(self) -> None:
        """What is attached to an image goes with its last tag."""
        here = {(repository, one.digest) for (repository, _), one in self.tagged.items()}
        self.attached = {key: value for key, value in self.attached.items() if key in here}


def lost(node: Directory, client: Client) -> Iterator[str]:
    """What was acknowledged to a client and is not whole any more."""
    for (repository, tag), target in client.tagged.items():
        stored = node.manifests.get(repository, tag)
        if stored is None or stored.digest != target.digest:
            yield f"{repository}:{tag}"
        for attached in client.attached.get((repository, target.digest), []):
            if node.manifests.get(repository, attached.digest) is None:
                yield f"{repository}@{attached.digest} of {tag}"


def test_nothing_acknowledged_disappears(tmp_path: Path) -> None:
    """Clients and a collector without a pause; in the end all that is tagged is whole."""
    grace = Duration(400)
    node = Directory(tmp_path, clock=time.time)
    clients = [Client(node, name, grace.seconds) for name in ("ann", "bob", "eve")]
    stop, until = threading.Event(), time.monotonic() + _LONGEST_S
    threads = [threading.Thread(target=client.run, args=(stop,)) for client in clients]
    for thread in threads:
        thread.start()
    removed = 0
    while time.monotonic() < until and (
        removed < _REMOVED or any(client.done < _STEPS for client in clients)
    ):
        report = collect(node.storage, GcOptions(every=None, grace=grace, untagged=True))
        removed += report.manifests + report.blobs
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    time.sleep(grace.seconds)
    collect(node.storage, GcOptions(every=None, grace=grace, untagged=True))
    assert [fault for client in clients for fault in client.faults] == []
    assert [one for client in clients for one in lost(node, client)] == []
    assert removed >= _REMOVED and all(client.done >= _STEPS for client in clients)
    assert list(check(node.storage, CheckSummary())) == []
    node.close()
