"""kill -9 of a node that serves pushes and deletions while it collects, as people run it."""

from __future__ import annotations

import http.client
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from served import served
from spec_client import MANIFEST, OCTETS, Target, sha256, to_json, with_query

_ROUNDS = 3
_PUSHERS = 3
_GONE = (OSError, http.client.HTTPException)
_SECTION = """
collection:
  every: 1s
  grace: 500ms
  untagged: true
metadata: STORE
"""


@dataclass
class Pusher:
    """Pushes images to a repository of its own: some are kept by a tag, some are not."""

    name: str
    chance: random.Random
    kept: dict[str, bytes] = field(default_factory=dict)  # tag -> manifest that was acknowledged
    deleted: set[str] = field(default_factory=set)  # tags whose end was acknowledged
    wrong: list[str] = field(default_factory=list)

    def run(self, url: str, dead: threading.Event) -> None:
        target = Target(url, self.name)
        while not dead.is_set():
            try:
                self._push(target)
                self._delete(target)
            except _GONE as error:
                if not dead.wait(1):
                    self.wrong.append(repr(error))
                return
            except AssertionError as error:
                self.wrong.append(str(error))
                return

    def _push(self, target: Target) -> None:
        image = target.image(f"{self.name}{self.chance.random()}")
        content = self.chance.randbytes(self.chance.randrange(1, 200_000))
        place = with_query(target.start(), digest=sha256(content))
        middle = len(content) // 2
        assert target.call("PATCH", place.partition("?")[0], content[:middle], OCTETS).status == 202
        assert target.call("PUT", place, content[middle:], OCTETS).status == 201
        layer = {**image["layers"][0], "digest": sha256(content), "size": len(content)}
        image["layers"] += [layer]
        raw, tag = to_json(image), f"t{self.chance.randrange(10**9)}"
        reference = tag if self.chance.random() < 0.7 else sha256(raw)
        answer = target.call("PUT", f"manifests/{reference}", raw, {"Content-Type": MANIFEST})
        if answer.status == 400 and answer.codes == ["MANIFEST_BLOB_UNKNOWN"]:
            return  # slower than the grace period: a client would push it again
        assert answer.status == 201, answer
        if reference == tag:
            self.kept[tag] = raw

    def _delete(self, target: Target) -> None:
        if not self.kept or self.chance.random() < 0.6:
            return
        tag = self.chance.choice(list(self.kept))
        del self.kept[tag]  # from here on it may be gone
        assert target.call("DELETE", f"manifests/{tag}").status == 202
        self.deleted.add(tag)

    def verify(self, url: str) -> None:
        """Everything that was acknowledged is there and whole, and nothing that was deleted."""
        target = Target(url, self.name)
        for tag, raw in self.kept.items():
            answer = target.call("GET", f"manifests/{tag}", headers={"Accept": MANIFEST})
            assert answer.body == raw, tag
            for part in (answer.json["config"], *answer.json["layers"]):
                assert sha256(target.call("GET", f"blobs/{part['digest']}").body) == part["digest"]
        for tag in self.deleted:
            assert target.call("HEAD", f"manifests/{tag}").status == 404


def checked(data: Path) -> None:
    """`shipline registry check` finds nothing."""
    command = [sys.executable, "-m", "shipline", "registry", "check", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def work(pushers: list[Pusher], url: str, seconds: float, kill: Callable[[], None]) -> None:
    """Let all push until the node is killed, which is when some pushes have been acknowledged."""
    before = acknowledged(pushers)
    dead = threading.Event()
    threads = [threading.Thread(target=pusher.run, args=(url, dead)) for pusher in pushers]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    end = time.monotonic() + 60
    while acknowledged(pushers) < before + _LEAST and time.monotonic() < end:
        time.sleep(0.01)
    dead.set()
    kill()
    for thread in threads:
        thread.join()


def acknowledged(pushers: list[Pusher]) -> int:
    """Tags that were pushed, also those that were deleted since."""
    return sum(len(pusher.kept) + len(pusher.deleted) for pusher in pushers)


_LEAST = 2 * _PUSHERS  # pushes of a round, of which each pusher may lose one in a deletion


@pytest.mark.parametrize("store", ["sqlite", "rocksdb"])
def test_kill_in_the_middle_of_everything(tmp_path: Path, store: str) -> None:
    if store == "rocksdb":
        pytest.importorskip("rocksdict")
    seed = int(os.environ.get("SHIPLINE_TEST_SEED") or random.randrange(1 << 32))
    print("seed", seed)
    chance, section = random.Random(seed), _SECTION.replace("STORE", store)
    pushers = [Pusher(f"r/{number}", random.Random(chance.random())) for number in range(_PUSHERS)]
    for _ in range(_ROUNDS):
        with served(tmp_path, section) as running:
            for pusher in pushers:
                pusher.verify(running.url)
            work(pushers, running.url, chance.uniform(1.0, 2.2), running.kill)
        assert [pusher.wrong for pusher in pushers] == [[]] * _PUSHERS
        checked(tmp_path / "data")
    with served(tmp_path, section) as running:
        for pusher in pushers:
            pusher.verify(running.url)
    assert acknowledged(pushers) >= _ROUNDS * _PUSHERS
