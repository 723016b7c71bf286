"""What a host says of its limits is kept for all requests to it; its warnings are told once."""

from __future__ import annotations

import itertools
import logging
import threading
import time

import pytest
from parties import name

from serving import ReceivedRequest, Reply, Served, serving
from shipline import tasks
from shipline.errors import RegistryError
from shipline.oci import Descriptor, Manifest, media
from shipline.registry import Client
from shipline.registry.limits import HostLimits, RateLimit
from shipline.registry.request import Origin
from shipline.tasks import TaskGroup

MANIFEST = Manifest.make(Descriptor.of(b"{}", media.OCI_EMPTY), [])


def served_origin(served: Served) -> Origin:
    return Origin("http", "127.0.0.1", served.port)


FOUND: Reply = (200, {"Content-Type": MANIFEST.media_type}, MANIFEST.raw)


def test_refusals_halve_what_is_sent_at_once_and_successes_restore_it() -> None:
    limits = HostLimits(8)
    began = time.monotonic()
    for _ in range(3):  # sent together: one refusal
        limits.note(429, began, None, None)
    assert limits.at_once == 4
    for left in (2, 1, 1):
        limits.note(503, time.monotonic(), None, None)
        assert limits.at_once == left
    for _ in range(40):
        limits.note(200, time.monotonic(), None, None)
    assert limits.at_once == 8


def test_no_more_is_sent_at_once_than_a_rate_limit_leaves() -> None:
    limits = HostLimits(8)
    limits.note(200, 0.0, RateLimit(100, 3, 21600, 0), None)
    assert limits.at_once == 3


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        (("100;w=21600", "76;w=21600", ""), "100 requests in 6 hours, 76 left"),
        (("5000", "0", "17"), "5000 requests, 0 left"),
        (("10;w=60", "1", ""), "10 requests per minute, 1 left"),
        (("", "1", ""), None),
        (("many", "few", ""), None),
    ],
)
def test_rate_limits_are_read(headers: tuple[str, str, str], text: str | None) -> None:
    values = dict(zip(("Limit", "Remaining", "Reset"), headers, strict=True))
    rate = RateLimit.read(lambda header: values[header.removeprefix("RateLimit-")])
    assert (str(rate) if rate else None) == text


@pytest.mark.parametrize(
    "refusal",
    [
        (429, {"Retry-After": "1"}, b""),
        (503, {"Retry-After": "1"}, b""),
        (200, {"RateLimit-Limit": "1", "RateLimit-Remaining": "0", "RateLimit-Reset": "1"}, b""),
    ],
)
def test_all_requests_to_a_host_wait_as_one_was_told(refusal: Reply) -> None:
    came: list[float] = []

    def respond(request: ReceivedRequest) -> Reply:
        came.append(time.monotonic())
        if len(came) > 1:
            return FOUND
        return refusal if refusal[0] >= 400 else (200, {**refusal[1], **FOUND[1]}, FOUND[2])

    with serving(respond) as served, Client() as client, TaskGroup() as group:
        repository = client.repository(name(served))
        group.start(repository.resolve, "v1")
        while not came:
            time.sleep(0.01)
        time.sleep(0.2)
        group.start(repository.resolve, "v2")
        group.start(client.repository(name(served)).resolve, "v3")
    assert all(later - came[0] >= 0.9 for later in came[1:]) and len(came) >= 3


def test_fewer_requests_are_sent_at_once_after_a_refusal() -> None:
    lock, now, most = threading.Lock(), [0], [0]
    count = [0]

    def respond(request: ReceivedRequest) -> Reply:
        with lock:
            count[0] += 1
            if count[0] == 1:
                return 429, {"Retry-After": "0"}, b""
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.1)
        with lock:
            now[0] -= 1
        return FOUND

    with serving(respond) as served, Client(at_once=4) as client:
        client.repository(name(served)).resolve("first")
        with TaskGroup() as group:
            for number in range(6):
                group.start(client.repository(name(served)).resolve, f"v{number}")
        first, most[0] = most[0], 0
        with TaskGroup() as group:
            for number in range(12):
                group.start(client.repository(name(served)).resolve, f"w{number}")
    assert first <= 3 < most[0] <= 4


def test_a_refused_stream_makes_others_wait_too() -> None:
    came: list[tuple[str, float]] = []

    def respond(request: ReceivedRequest) -> Reply:
        request.all()
        came.append((request.method, time.monotonic()))
        methods = [method for method, _ in came]
        if request.method == "PATCH" and methods.count("PATCH") == 1:
            return 429, {"Retry-After": "1"}, b""
        status = {"POST": 202, "PATCH": 202, "GET": 204, "PUT": 201, "HEAD": 404}[request.method]
        return status, {"Location": "/v2/team/app/blobs/uploads/1", "Range": "0-0"}, b""

    content = bytes(3_000_000)
    with serving(respond) as served, Client() as client:
        with client.repository(name(served)).ingest() as ingest:
            ingest.write(content)
            ingest.commit(Descriptor.of(content, media.OCI_LAYER))
        assert client.http.limits(served_origin(served)).at_once < 8
    times = [when for _, when in came]
    assert times[2] - times[1] >= 0.9


def test_readers_that_a_thread_may_hold_are_had_after_a_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else it would wait for itself."""
    content = b"some content"
    layer = Descriptor.of(content, media.OCI_LAYER)
    replies = iter([(429, {"Retry-After": "0"}, b"")] * 3)
    monkeypatch.setattr(tasks, "_PATIENCE_S", 0.2)
    with (
        serving(lambda request: next(replies, (200, {}, content))) as served,
        Client(at_once=4) as client,
    ):
        repository = client.repository(name(served))
        begin = time.monotonic()
        with (
            repository.fetch(layer) as one,
            repository.fetch(layer) as other,
            repository.fetch(layer) as third,
        ):
            assert third.read() == other.read() == one.read() == content
        assert time.monotonic() - begin >= 0.2  # the third had to wait


def test_who_asks_once_does_not_wait_for_another() -> None:
    """It has another server to ask, as for mirrors, or shows what it has, as a node does."""
    with (
        serving(lambda request: (429, {"Retry-After": "50"}, b"")) as served,
        Client(tries=1) as client,
    ):
        begin = time.monotonic()
        for _ in range(2):
            with pytest.raises(RegistryError):
                client.repository(name(served)).resolve("v1")
        assert time.monotonic() - begin < 25


def test_an_error_tells_the_rate_limit() -> None:
    headers = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "0;w=21600"}
    reply = (429, headers, b'{"details":"You have reached your pull rate limit"}')
    with (
        serving(lambda request: reply) as served,
        Client(tries=1) as client,
        pytest.raises(RegistryError, match="reached your pull rate limit") as caught,
    ):
        client.repository(name(served)).resolve("v1")
    assert "allows 100 requests in 6 hours, 0 left" in caught.value.hint


def test_a_warning_is_told_once_for_each_host(caplog: pytest.LogCaptureFixture) -> None:
    texts = iter(['299 - "v1 \\"ends\\" soon\x1b[31m"'] * 2 + ['299 - "moved"', "199 - x", "299 -"])

    def respond(request: ReceivedRequest) -> Reply:
        return 200, {**FOUND[1], "Warning": next(texts)}, FOUND[2]

    with serving(respond) as served, Client() as client, caplog.at_level(logging.WARNING):
        for number in range(5):
            client.repository(name(served)).resolve(f"v{number}")
        host = served.host
    assert caplog.messages == [f'{host} warns: v1 "ends" soon [31m', f"{host} warns: moved"]


def test_warnings_without_end_are_not_all_told(caplog: pytest.LogCaptureFixture) -> None:
    numbers = itertools.count()

    def respond(request: ReceivedRequest) -> Reply:
        return 200, {**FOUND[1], "Warning": f'299 - "number {next(numbers)}"'}, FOUND[2]

    with serving(respond) as served, Client() as client, caplog.at_level(logging.WARNING):
        for _ in range(150):
            client.repository(name(served)).resolve("v1")
    assert len(caplog.messages) == 100
