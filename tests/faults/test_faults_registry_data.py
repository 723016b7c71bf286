"""The data directory when the process is killed, the disk is full, or turns read-only."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node_app import fill
from nodes import Node, node
from shipline.oci import Descriptor, Digest, Manifest
from shipline.server.fsck import CheckSummary, check, open_offline
from shipline.server.gc import GcOptions, collect
from shipline.server.manifests import Manifests
from shipline.server.storage import Storage
from shipline.server.uploads import UploadStore
from shipline.units import Duration
from spec_client import MANIFEST, OCTETS, Target, sha256, to_json

_ROUNDS = 6
_CONFIG = "application/vnd.oci.image.config.v1+json"
_WORK = """
import random, sys, threading, time
from contextlib import suppress
from pathlib import Path
from shipline.oci import Descriptor, Digest, Manifest
from shipline.server.gc import GcOptions, collect
from shipline.server.manifests import Manifests
from shipline.server.storage import Storage
from shipline.server.uploads import UploadStore
from shipline.units import Duration

storage = Storage(Path(sys.argv[1]))
storage.promises.assume_none()
uploads, manifests = UploadStore(storage), Manifests(storage)
uploads.recover()
told = threading.Lock()

def push(number):
    name, chance = f"r/{number}", random.Random()
    while True:
        content = chance.randbytes(chance.randrange(1, 3000))
        blob = Descriptor.of(content, "application/vnd.oci.image.config.v1+json")
        steps = uploads.put(name, blob.digest, len(content))
        next(steps), steps.send(content)
        with suppress(StopIteration):
            steps.send(b"")
        image = Manifest.make(blob, [])
        digest, tag = image.descriptor.digest, chance.choice("abcdef")
        manifests.put(name, digest, image, (tag, f"by-{digest.hex[:12]}"))
        with told:
            print(name, digest, flush=True)
        if chance.random() < 0.3:
            manifests.untag(name, tag)
        if chance.random() < 0.2:
            storage.delete_blob("nowhere", digest)

def sweep():
    while True:
        collect(storage, GcOptions(every=None, grace=Duration(300), untagged=True))

for work, arguments in ((push, (1,)), (push, (2,)), (push, (2,)), (sweep, ())):
    threading.Thread(target=work, args=arguments, daemon=True).start()
time.sleep(60)
"""


def killed_at_work(data: Path, seconds: float) -> list[tuple[str, str]]:
    """What pushes acknowledged, beside deletions and collections, until kill -9."""
    with subprocess.Popen([sys.executable, "-c", _WORK, data], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 120)
        assert ready and process.poll() is None
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().decode().splitlines()
    return [(name, digest) for name, _, digest in (line.partition(" ") for line in lines) if digest]


def test_kill_leaves_a_directory_without_fault(tmp_path: Path) -> None:
    """Records, files, indexes and counters agree after every kill; nothing acknowledged is gone."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    pushed: list[tuple[str, str]] = []
    for _ in range(_ROUNDS):
        pushed += killed_at_work(tmp_path, chance.uniform(0.1, 0.9))
        with open_offline(tmp_path) as storage:
            assert [str(finding) for finding in check(storage, CheckSummary())] == []
            for name, digest in pushed:
                assert Manifests(storage).get(name, Digest.parse(digest)) is not None
    assert len(pushed) > _ROUNDS


@contextmanager
def disk(place: Path, megabytes: int) -> Iterator[str]:
    """An ext4 file system on `place` that turns read-only at its first error; its device."""
    image = place.with_name(place.name + ".ext4")
    image.write_bytes(b"")
    os.truncate(image, megabytes << 20)
    place.mkdir()
    for command in (
        ["mkfs.ext4", "-q", "-F", str(image)],
        ["mount", "-o", "loop,errors=remount-ro", str(image), str(place)],
    ):
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip(f"{command[0]} does not work here")
    try:
        found = subprocess.run(
            ["findmnt", "-no", "SOURCE", str(place)], capture_output=True, check=True, text=True
        )
        yield found.stdout.strip().rpartition("/")[2]
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fail(device: str) -> None:
    """Let the kernel find an error on the file system."""
    trigger = Path(f"/sys/fs/ext4/{device}/trigger_fs_error")
    if not trigger.exists():
        pytest.skip("this kernel cannot be told to find an error")
    trigger.write_text("1")


def answers(running: Node, name: str, number: int) -> list[int]:
    """The status of as many pulls at once."""
    found: list[int] = []

    def pull() -> None:
        target = Target(running.url, name)
        found.append(target.call("GET", "manifests/v1").status)
        found.append(target.call("GET", "tags/list").status)

    threads = [threading.Thread(target=pull) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.root
def test_a_disk_that_turns_read_only_serves_pulls_and_refuses_pushes(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", 64) as device, node(tmp_path / "disk" / "data") as running:
        target = Target(running.url, "repo")
        image = target.image("x")
        raw = to_json(image)
        assert target.push(image, "v1").status == 201
        spare = target.push_blob(b"spare")
        location = target.start()
        fail(device)
        again = {"Content-Type": MANIFEST}
        for method, path, body, headers in (
            ("POST", "blobs/uploads/", b"", OCTETS),
            ("POST", f"blobs/uploads/?digest={sha256(b'new')}", b"new", OCTETS),
            ("PATCH", location, b"new", OCTETS),
            ("PUT", "manifests/v2", raw, again),
            ("DELETE", "manifests/v1", b"", {}),
            ("DELETE", f"manifests/{sha256(raw)}", b"", {}),
            ("DELETE", f"blobs/{spare}", b"", {}),
        ):
            answer = target.call(method, path, body, headers)
            assert answer.status == 503, (method, path, answer)
            assert b"read-only" in answer.body
        assert set(answers(running, "repo", 40)) == {200}
        blob = target.call("GET", f"blobs/{image['config']['digest']}")
        assert sha256(blob.body) == image["config"]["digest"]
        assert running.process.poll() is None


@pytest.mark.root
@pytest.mark.parametrize("metadata", ["sqlite", "rocksdb"])
def test_a_full_disk_is_emptied_by_a_collection(tmp_path: Path, metadata: str) -> None:
    """What no one needs makes room again, and what was refused left no trace."""
    if metadata == "rocksdb":
        pytest.importorskip("rocksdict")
    with disk(tmp_path / "disk", 96):
        storage = Storage(tmp_path / "disk" / "data", metadata=metadata)
        storage.promises.assume_none()
        uploads, manifests = UploadStore(storage), Manifests(storage)
        kept = b"{}"
        fill(uploads.put("repo", Digest.of(kept), 2), [kept])
        image = Manifest.make(Descriptor.of(kept, _CONFIG), [])
        manifests.put("repo", image.descriptor.digest, image, ("v1",))
        refused = fill_disk(uploads)
        assert refused > 0
        with pytest.raises(OSError, match=r"(?i)no space|full"):
            for number in range(100_000):
                manifests.put("repo", image.descriptor.digest, image, (f"t{number}",))
                fill(uploads.put("repo", Digest.of(b"%d" % number), None), [b"%d" % number])
        deadline = time.time() + 120
        while time.time() < deadline:
            try:
                report = collect(storage, GcOptions(every=None, grace=Duration(0)))
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail("the collection found no room to work")
        assert report.bytes > 0
        fill(uploads.put("repo", Digest.of(b"new"), 3), [b"new"])
        assert manifests.get("repo", "v1") is not None
        assert [str(finding) for finding in check(storage, CheckSummary())] == []
        storage.close()


def fill_disk(uploads: UploadStore) -> int:
    """Push until the disk is full; returns how many were refused."""
    for number in range(1000):
        content = number.to_bytes(2, "big") * (1 << 19)
        try:
            fill(uploads.put("repo", Digest.of(content), len(content)), [content])
        except OSError:
            return 1
    return 0
