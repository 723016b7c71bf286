"""Builds killed or interrupted: nothing has a name, nothing is left, the next one works."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import pytest

from builds import Shipline, context, document, get, leftovers, processes, tags
from peers import Registry
from proxy import Answer, FaultProxy, Stall

pytestmark = [pytest.mark.peers, pytest.mark.root]

QUICK_S = 20.0  # from a signal to the end of the program; what it waits for takes 60 and more
WAIT_S = 120.0
SIZE = 12 << 20  # bytes of a layer that is uploaded while it is made


@dataclass(frozen=True)
class Scene:
    """A build that comes to a halt at a known point."""

    shipline: Shipline
    registry: Registry
    proxy: FaultProxy
    place: Path
    repository: str
    word: str

    def start(self) -> subprocess.Popen[bytes]:
        name = f"127.0.0.1:{self.proxy.port}/{self.repository}:1"
        return self.shipline.start("--push", "-t", name, "--progress", "plain", self.place)

    def rerun(self) -> None:
        """Without what halted it, the build works and is right."""
        self.proxy.forget()
        (self.place / "wait").write_text("true")
        with self.start() as process:
            _, err = process.communicate(b"", WAIT_S)
        assert process.returncode == 0, err.decode()
        layers = document(self.registry, self.repository, "1")["layers"]
        for layer in layers:
            status, body = get(self.registry, f"/v2/{self.repository}/blobs/{layer['digest']}")
            assert (status, len(body)) == (200, layer["size"])
        out = self.place / "out"
        self.shipline.build("-o", out, self.place).ok()
        assert (out / "big").stat().st_size == SIZE
        assert (out / "made").read_text() == "made\n"
        assert leftovers(self.shipline.home, self.word) == []


@pytest.fixture
def scene(tmp_path: Path, base_images: Registry) -> Iterator[Scene]:
    word = f"31415{token_hex(6)}"
    dockerfile = f"FROM busybox\nCOPY big /\nCOPY wait /\nRUN sh /wait {word}; echo made > /made\n"
    place = context(tmp_path / "context", dockerfile, wait="true")
    (place / "big").write_bytes(os.urandom(SIZE))
    (place / ".dockerignore").write_text("out\n")
    with FaultProxy(base_images.port) as proxy:
        shipline = Shipline(tmp_path / "home", f"127.0.0.1:{proxy.port}")
        repository = f"stopped/{token_hex(4)}"
        yield Scene(shipline, base_images, proxy, place, repository, word)


def while_pulling(scene: Scene) -> Callable[[], bool]:
    scene.proxy.break_next(Stall(after=5000), method="GET", target="busybox/blobs/", times=20)
    return lambda: len(scene.proxy.seen("GET", "busybox/blobs/")) >= 2


def while_running(scene: Scene) -> Callable[[], bool]:
    (scene.place / "wait").write_text("trap '' TERM INT; (sleep 300 & sleep 300); wait")
    return lambda: len(processes(scene.place / "none", scene.word)) >= 1


def while_uploading(scene: Scene) -> Callable[[], bool]:
    scene.proxy.break_next(Stall(), method="PATCH", times=20)
    scene.proxy.break_next(Stall(), method="PUT", target="/blobs/", times=20)
    return lambda: bool(scene.proxy.seen("PATCH") or scene.proxy.seen("PUT"))


def before_the_tag(scene: Scene) -> Callable[[], bool]:
    busy = Answer(503, (("Retry-After", "60"),))
    scene.proxy.break_next(busy, method="PUT", target="/manifests/sha256", times=20)
    return lambda: bool(scene.proxy.seen("PUT", "/manifests/sha256"))


POINTS = [while_pulling, while_running, while_uploading, before_the_tag]


def reach(scene: Scene, halted: Callable[[], bool]) -> subprocess.Popen[bytes]:
    """A build that has come to the point."""
    process = scene.start()
    end = time.monotonic() + WAIT_S
    while not halted():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            _, err = process.communicate()
            pytest.fail(f"the build did not halt: {err.decode()}")
        time.sleep(0.02)
    time.sleep(0.1)
    return process


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_build_is_gone_quickly(
    number: signal.Signals, point: Callable[[Scene], Callable[[], bool]], scene: Scene
) -> None:
    process = reach(scene, point(scene))
    start = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=WAIT_S)
    assert time.monotonic() - start < QUICK_S
    assert process.returncode == 130, err.decode()
    assert b"Traceback" not in err
    assert leftovers(scene.shipline.home, scene.word) == []
    assert tags(scene.registry, scene.repository) == []


@pytest.mark.parametrize("point", POINTS)
def test_killed_build_leaves_nothing_that_matters(
    point: Callable[[Scene], Callable[[], bool]], scene: Scene
) -> None:
    process = reach(scene, point(scene))
    process.kill()
    process.communicate(timeout=WAIT_S)
    end = time.monotonic() + QUICK_S
    while processes(scene.shipline.home, scene.word) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes(scene.shipline.home, scene.word) == []
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(scene.shipline.home) not in mounts
    assert tags(scene.registry, scene.repository) == []
    scene.rerun()


def test_build_killed_again_and_again_still_comes_out_right(scene: Scene) -> None:
    for number in range(8):
        process = scene.start()
        time.sleep(0.15 + number * 0.12)
        process.kill()
        process.communicate(timeout=WAIT_S)
    scene.rerun()


def test_second_interrupt_exits_at_once(scene: Scene) -> None:
    process = reach(scene, while_running(scene))
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=QUICK_S)
    assert process.returncode == 130
    scene.rerun()
