"""The node as a process: where it listens, how it stops, what it needs."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes import Node, node
from shipline.errors import UsageError
from shipline.server import RegistrySection, serve_registry
from shipline.server.access import AccessSection
from spec_client import OCTETS, Target, sha256, with_query


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path / "data") as started:
        yield started


def half_a_patch(running: Node, path: str, size: int) -> socket.socket:
    """A connection that promised `size` bytes and sent one."""
    host, _, port = running.address.partition(":")
    connection = socket.create_connection((host, int(port)))
    head = f"PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
    connection.sendall(head.encode() + b"x")
    return connection


def test_port_zero_takes_a_free_port_and_tells_it(running: Node) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9][0-9]*", running.url)
    assert Target(running.url, "x").call("GET", "/v2/").status == 200
    assert Target(running.url, "x").call("GET", "/healthz").body == b"ok\n"


def test_loopback_of_version_6(tmp_path: Path) -> None:
    with node(tmp_path / "data", listen="[::1]:0") as running:
        assert Target(running.url, "x").call("GET", "/v2/").status == 200


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
def test_open_to_others_is_refused_unless_asked_for(tmp_path: Path, address: str) -> None:
    with pytest.raises(UsageError, match="reachable from other machines"):
        serve_registry(
            address, tmp_path / "data", section=RegistrySection(access=AccessSection(mode="open"))
        )
    assert not (tmp_path / "data").exists()


def test_an_address_that_others_can_reach_may_be_asked_for(tmp_path: Path) -> None:
    with node(tmp_path / "data", listen="0.0.0.0:0", insecure_open=True) as running:
        port = running.url.rpartition(":")[2]
        assert Target(f"http://127.0.0.1:{port}", "x").call("GET", "/v2/").status == 200


@pytest.mark.parametrize("address", ["5000", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:99999", ":"])
def test_what_is_no_address_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(UsageError):
        serve_registry(address, tmp_path / "data")


def test_an_address_that_is_taken_is_refused(running: Node, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot listen"):
        serve_registry(running.address, tmp_path / "other")


def test_a_directory_that_is_served_is_refused(running: Node) -> None:
    with pytest.raises(UsageError, match="another process"):
        serve_registry("127.0.0.1:0", running.data)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_is_clean(running: Node, number: int) -> None:
    Target(running.url, "x").push_blob(b"content")
    assert running.stop(number) == 0
    assert "Traceback" not in running.log.read_text()


def test_one_process_and_none_is_left(running: Node) -> None:
    children = subprocess.run(
        ["ps", "--ppid", str(running.process.pid), "-o", "pid="], capture_output=True, text=True
    )
    assert children.stdout.split() == []


def test_stop_lets_an_upload_end(running: Node) -> None:
    target = Target(running.url, "x")
    location = target.start()
    with half_a_patch(running, location, 10) as connection:
        time.sleep(0.2)
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert running.process.poll() is None
        connection.sendall(b"y" * 9)
        assert b" 202 " in connection.recv(4096)
    assert running.process.wait(10) == 0
    with node(running.data) as again:
        answer = Target(again.url, "x").call("GET", location)
        assert (answer.status, answer["Range"]) == (204, "0-9")


def test_second_signal_does_not_wait(running: Node) -> None:
    with half_a_patch(running, Target(running.url, "x").start(), 10):
        time.sleep(0.2)
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert running.process.poll() is None
        assert running.stop() == -signal.SIGTERM


def test_stalled_clients_do_not_stop_the_others(running: Node) -> None:
    target = Target(running.url, "x")
    stalled = [half_a_patch(running, target.start(), 10) for _ in range(30)]
    try:
        digest = target.push_blob(b"in time")
        assert target.call("GET", f"blobs/{digest}").body == b"in time"
    finally:
        for connection in stalled:
            connection.close()


def test_equal_pushes_at_once_are_one(running: Node) -> None:
    content, digest = os.urandom(2 << 20), ""
    digest = sha256(content)
    places = [with_query(Target(running.url, f"r{n}").start(), digest=digest) for n in range(6)]
    statuses: list[int] = []

    def push(place: str) -> None:
        statuses.append(Target(running.url, "any").call("PUT", place, content, OCTETS).status)

    threads = [threading.Thread(target=push, args=(place,)) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [201] * 6
    assert len([file for file in (running.data / "blobs").rglob("*") if file.is_file()]) == 1
    assert list((running.data / "uploads").iterdir()) == []


def test_metrics_count_requests(running: Node) -> None:
    target = Target(running.url, "x")
    target.push_blob(b"counted")
    target.call("GET", "blobs/nonsense")
    text = target.call("GET", "/metrics").body.decode()
    requests = "shipline_registry_requests_total"
    assert f'{requests}{{method="PUT",route="blobs",status="201"}} 1.0' in text
    assert f'{requests}{{method="GET",route="blobs",status="400"}} 1.0' in text
    assert "shipline_registry_received_bytes_total 7.0" in text
    assert "shipline_registry_uploads_in_flight 0.0" in text
