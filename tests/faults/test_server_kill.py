"""kill -9 at any point: what was acknowledged is there and whole, and nothing is half."""

from __future__ import annotations

import hashlib
import http.client
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nodes import node
from shipline.metadata.drivers import Driver
from shipline.server import RegistrySection
from shipline.server.fsck import CheckSummary, check, open_offline
from spec_client import MANIFEST, OCTETS, Target, sha256, to_json, with_query

ROUNDS = 8
_PUSHERS = 3
_GONE = (OSError, http.client.HTTPException, AssertionError)


@dataclass
class Pusher:
    """Pushes images to a repository of its own and remembers what was acknowledged."""

    target: Target
    random: random.Random
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, set[str | None]] = field(default_factory=dict)  # what a tag may be
    sessions: dict[str, bytes] = field(default_factory=dict)
    dead: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.dead.is_set():
            try:
                self.push_image()
                self.chunked()
            except _GONE:
                if not self.dead.wait(0.05):
                    raise
                return

    def push_image(self) -> None:
        image = self.target.image(f"{self.target.repository}{self.random.random()}")
        raw = to_json(image)
        tag = self.random.choice("abc")
        before = self.tags.get(tag, {None})
        self.tags[tag] = before | {sha256(raw)}
        assert self.target.push(image, tag).status == 201
        self.tags[tag] = {sha256(raw)}
        self.manifests[sha256(raw)] = raw
        if self.random.random() < 0.3:
            self.tags[tag] = {sha256(raw), None}
            assert self.target.call("DELETE", f"manifests/{tag}").status == 202
            self.tags[tag] = {None}

    def chunked(self) -> None:
        content = self.random.randbytes(self.random.randrange(1, 400_000))
        location, middle = self.target.start(), len(content) // 2
        self.sessions[location] = b""
        span = {"Content-Range": f"0-{middle - 1}"} if middle else {}
        answer = self.target.call("PATCH", location, content[:middle], {**OCTETS, **span})
        assert answer.status == 202
        self.sessions[location] = content[:middle]
        place = with_query(location, digest=sha256(content))
        del self.sessions[location]  # from here on it may be a blob
        assert self.target.call("PUT", place, content[middle:], OCTETS).status == 201
        self.blobs[sha256(content)] = content

    def verify(self, url: str) -> None:
        self.target = Target(url, self.target.repository)
        for digest, content in self.blobs.items():
            assert self.target.call("GET", f"blobs/{digest}").body == content
        for digest, raw in self.manifests.items():
            assert self.target.call("GET", f"manifests/{digest}").body == raw
            for layer in self.target.call("GET", f"manifests/{digest}").json["layers"]:
                answer = self.target.call("GET", f"blobs/{layer['digest']}")
                assert sha256(answer.body) == layer["digest"]
        for tag, allowed in self.tags.items():
            answer = self.target.call("GET", f"manifests/{tag}", headers={"Accept": MANIFEST})
            found = sha256(answer.body) if answer.status == 200 else None
            assert found in allowed
            self.tags[tag] = {found}
        for location, content in self.sessions.items():
            self.resume(location, content)
        self.sessions.clear()

    def resume(self, location: str, content: bytes) -> None:
        """Bytes of an acknowledged chunk need not be sent again."""
        answer = self.target.call("GET", location)
        assert answer.status == 204
        if content:
            end = int((answer["Range"] or "").partition("-")[2])
            assert end >= len(content) - 1


def pushed(pushers: list[Pusher]) -> int:
    """How many images were acknowledged."""
    return sum(len(pusher.manifests) for pusher in pushers)


def whole(data: Path) -> int:
    """Every file under blobs/ is what its name says; returns their number."""
    files = [file for file in (data / "blobs").rglob("*") if file.is_file()]
    for file in files:
        seen = hashlib.new(file.parent.name, file.read_bytes()).hexdigest()
        assert seen == file.name
    return len(files)


@pytest.mark.parametrize("driver", ["sqlite", "rocksdb"])
def test_kill_at_random_points_loses_nothing(tmp_path: Path, driver: Driver) -> None:
    if driver == "rocksdb":
        pytest.importorskip("rocksdict")
    section = RegistrySection(metadata=driver)
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    data = tmp_path / "data"
    pushers = [
        Pusher(Target("", f"pusher/{number}"), random.Random(chance.random()))
        for number in range(_PUSHERS)
    ]
    for _ in range(ROUNDS):
        with node(data, section=section) as running:
            for pusher in pushers:
                pusher.verify(running.url)
                pusher.dead.clear()
            threads = [threading.Thread(target=pusher.run) for pusher in pushers]
            for thread in threads:
                thread.start()
            enough = pushed(pushers) + chance.randrange(5)
            while pushed(pushers) < enough and all(map(threading.Thread.is_alive, threads)):
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.05))
            for pusher in pushers:
                pusher.dead.set()
            running.kill()
            for thread in threads:
                thread.join()
        whole(data)
    with open_offline(data) as storage:
        assert list(check(storage, CheckSummary())) == []
    with node(data) as running:
        for pusher in pushers:
            pusher.verify(running.url)
    assert whole(data) > 0
    assert pushed(pushers) > 0
