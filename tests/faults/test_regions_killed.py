"""kill -9 of a primary and of an edge between any two writes, and a full disk: nothing is half,
nothing is lost.
"""

from __future__ import annotations

import http.client
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from commands import Forked
from nodes import Node
from regions import Region, drain, entries, image, index, replication, statement
from served import served
from shipline.content import MemoryStore
from shipline.metadata import Key
from shipline.server import Storage
from spec_client import Target

_MOST_WRITES = 200


def _killing(storage: Storage, number: int, *, before: bool) -> None:
    """Have the process killed before or after its write `number` of records."""
    write, left = storage.records.write, [number]

    def counting(changes: dict[Key, bytes | None], **options: object) -> None:
        left[0] -= 1
        if before and left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        write(changes, **options)  # type: ignore[arg-type]
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    storage.records.write = counting  # type: ignore[assignment,method-assign]


def _push(data: Path, number: int, before: bool) -> None:
    region, store = Region(data), MemoryStore()
    _killing(region.app.storage, number, before=before)
    one, two = index(store, "one"), image(store, "two")
    region.push("team/app", "v1", one, store)
    region.attach("team/app", statement(store, one, "signed"), store)
    region.push("team/app", "v1", two, store)
    region.open("team/app").delete("v1")
    region.push("base", "v1", two, store)
    region.close()


def _replicate(primary: Path, edge: Path, number: int, before: bool) -> None:
    source, target = Region(primary), Region(edge)
    one = replication(source, target)
    _killing(target.app.storage, number, before=before)
    drain(one)
    target.close()
    source.close()


def _every_point(run: Callable[[int, bool], Forked], check: Callable[[], None]) -> int:
    """Kill before and after each write, one further each time, until a run ends by itself."""
    for number in range(_MOST_WRITES):
        for before in (True, False):
            process = run(number, before)
            if process.wait(60) == 0:
                return number
            assert process.poll() == -signal.SIGKILL
            check()
    raise AssertionError("the run did not end")


def test_a_primary_killed_at_any_write_has_an_entry_for_every_tag(tmp_path: Path) -> None:
    number = [0]

    def run(at: int, before: bool) -> Forked:
        number[0] += 1
        return Forked(_push, tmp_path / str(number[0]), at, before)

    def check() -> None:
        region = Region(tmp_path / str(number[0]))
        region.check_whole()
        said: dict[tuple[str, str], bool] = {}
        for operation, name, what in entries(region):
            if operation in ("tag", "untag"):
                said[name, what] = operation == "tag"
        assert {key for key, there in said.items() if there} == set(region.tags())
        region.close()

    assert _every_point(run, check) > 10


def test_an_edge_killed_at_any_write_is_whole_and_converges(tmp_path: Path) -> None:
    primary, store = Region(tmp_path / "primary"), MemoryStore()
    one = index(store, "one")
    primary.push("team/app", "v1", one, store)
    primary.attach("team/app", statement(store, one, "signed"), store)
    primary.push("base", "v1", image(store, "two"), store)
    wanted = primary.tags()
    primary.close()
    number = [0]

    def run(at: int, before: bool) -> Forked:
        number[0] += 1
        edge = tmp_path / f"edge{number[0]}"
        return Forked(_replicate, tmp_path / "primary", edge, at, before)

    def check() -> None:
        edge = Region(tmp_path / f"edge{number[0]}")
        edge.check_whole()
        assert edge.tags().items() <= wanted.items()
        source = Region(tmp_path / "primary")
        drain(replication(source, edge))
        assert edge.tags() == wanted
        assert edge.open("team/app").referrers(one)
        edge.check_whole()
        source.close()
        edge.close()

    assert _every_point(run, check) > 10


@pytest.mark.parametrize("store", ["sqlite", "rocksdb"])
def test_both_killed_again_and_again_while_images_are_pushed(tmp_path: Path, store: str) -> None:
    """Real nodes over a network; what was acknowledged at the primary is at the edge in the end."""
    if store == "rocksdb":
        pytest.importorskip("rocksdict")
    seed = int(os.environ.get("SHIPLINE_TEST_SEED") or random.randrange(1 << 32))
    print("seed", seed)
    chance = random.Random(seed)
    kept: dict[tuple[str, str], str] = {}
    for directory in ("primary", "edge"):
        (tmp_path / directory).mkdir()
    port = ""
    for _ in range(3):
        with ExitStack() as stack:
            primary, edge = _start(stack, tmp_path, port, store)
            port = primary.address.rpartition(":")[2]
            stop = threading.Event()
            pusher = threading.Thread(target=_pushing, args=(primary, kept, stop, chance.random()))
            pusher.start()
            time.sleep(chance.uniform(0.3, 1.0))
            for node in chance.sample([primary, edge], 2):
                node.kill()
                time.sleep(chance.uniform(0, 0.2))
            stop.set()
            pusher.join()
        region = Region(tmp_path / "edge" / "data")
        region.check_whole()
        region.close()
    with ExitStack() as stack:
        primary, edge = _start(stack, tmp_path, port, store)
        end = time.monotonic() + 60
        while _digests(edge, kept) != kept and time.monotonic() < end:
            time.sleep(0.1)
        assert kept and _digests(edge, kept) == kept


def _start(stack: ExitStack, root: Path, port: str, store: str) -> tuple[Node, Node]:
    """On the port that the primary had before, if any."""
    metadata = f"metadata: {store}\n"
    primary = stack.enter_context(
        served(root / "primary", f"{metadata}role: primary", port=port or "0")
    )
    edge = stack.enter_context(
        served(
            root / "edge",
            f"{metadata}role: edge\n"
            f"replication: [{{name: main, from: '{primary.address}', deletes: true}}]",
        )
    )
    return primary, edge


def _pushing(
    node: Node, kept: dict[tuple[str, str], str], stop: threading.Event, seed: float
) -> None:
    chance = random.Random(seed)
    while not stop.is_set():
        name, tag = chance.choice(("a", "b/c")), f"t{chance.randrange(10**6)}"
        try:
            target = Target(node.url, name)
            answer = target.push(target.image(f"{name}{chance.random()}"), tag)
        except (OSError, http.client.HTTPException, AssertionError):
            return
        if answer.status == 201:
            kept[name, tag] = str(answer["Docker-Content-Digest"])


def _digests(node: Node, wanted: dict[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    found = {}
    for name, tag in wanted:
        answer = Target(node.url, name).call("HEAD", f"manifests/{tag}")
        if answer.status == 200:
            found[name, tag] = str(answer["Docker-Content-Digest"])
    return found


@pytest.mark.root
def test_a_full_disk_at_the_edge_leaves_nothing_half_and_heals(tmp_path: Path) -> None:
    edge = tmp_path / "edge"
    edge.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(edge)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        _fill_and_heal(tmp_path, edge)
    finally:
        subprocess.run(["umount", "-l", str(edge)], check=True)


def _fill_and_heal(root: Path, edge: Path) -> None:
    primary, store = Region(root / "primary"), MemoryStore()
    primary.push("team/app", "small", image(store, "small"), store)
    primary.push("team/app", "big", image(store, "big", size=20 << 20), store)
    target = Region(edge / "data")
    one = replication(primary, target)
    drain(one)
    target.check_whole()
    assert set(target.tags()) == {("team/app", "small")}
    assert "No space left" in one.state().error
    subprocess.run(["mount", "-o", "remount,size=100m", str(edge)], check=True)
    drain(replication(primary, target))
    assert target.tags() == primary.tags()
    target.check_whole()
    target.close()
    primary.close()
