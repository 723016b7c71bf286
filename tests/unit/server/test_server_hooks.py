"""Webhooks: every event reaches its receiver, in order, and nothing else is reached."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from served import served
from shipline.errors import Cancelled, ConfigError
from shipline.metadata import SqliteRecords
from shipline.server.events import NodeEvent
from shipline.server.hooks import Queue, Webhooks, WebhookSection
from shipline.server.hooks.outbound import DeliveryFailed, post
from shipline.server.hooks.outbound import DeliveryTarget as Place
from shipline.server.hooks.sender import body_of
from shipline.tasks import TaskGroup
from shipline.units import Duration
from spec_client import Target

LOOPBACK = ("127.0.0.0/8",)
Answer = tuple[int, dict[str, str]]


class Received:
    """What came to a receiver, and a way to wait for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.requests: list[tuple[dict[str, str], bytes]] = []

    def add(self, headers: dict[str, str], body: bytes) -> int:
        with self._changed:
            self.requests.append((headers, body))
            self._changed.notify_all()
            return len(self.requests)

    def wait(self, number: int) -> list[tuple[dict[str, str], bytes]]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= number, 15)
            return list(self.requests)


@contextmanager
def receiver(
    answer: Callable[[int], Answer] = lambda number: (200, {}),
) -> Iterator[tuple[str, Received]]:
    """A server that answers the nth request with `answer(n)`, counted from 1."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers = answer(received.add(dict(self.headers), body))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/hook", received
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def sending(records: SqliteRecords, *sections: WebhookSection) -> Iterator[Webhooks]:
    hooks = Webhooks(records, sections, environ={"KEY": "s3cret"}, first_pause_s=0.02)
    with TaskGroup() as group:
        hooks.start(group)
        try:
            yield hooks
        finally:
            group.scope.cancel()


@pytest.fixture
def records(tmp_path: Path) -> Iterator[SqliteRecords]:
    found = SqliteRecords(tmp_path / "records.db")
    yield found
    found.close()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def push(number: int) -> NodeEvent:
    return NodeEvent(
        "push", "team/app", digest=f"sha256:{number}", tags=(f"v{number}",), actor="ann"
    )


def test_pushes_to_a_real_node_are_delivered(tmp_path: Path) -> None:
    with receiver() as (url, received):
        section = f"""
        webhooks:
          - {{name: ci, url: "{url}", allow: [127.0.0.0/8], secret-variable: KEY}}
        """
        with served(tmp_path, section, KEY="s3cret") as running:
            target = Target(running.url, "team/app")
            digest = target.push(target.image("hooks"), "v1")["Docker-Content-Digest"]
            ((headers, body),) = received.wait(1)
    expected = hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    assert headers["X-Hub-Signature-256"] == f"sha256={expected}"
    (event,) = json.loads(body)["events"]
    assert (event["action"], event["target"]["tag"]) == ("push", "v1")
    assert (event["target"]["repository"], event["target"]["digest"]) == ("team/app", digest)


def test_order_is_kept_through_failures(records: SqliteRecords) -> None:
    with (
        receiver(lambda number: (500 if number in (1, 2, 4) else 200, {})) as (url, received),
        sending(records, WebhookSection("a", url, allow=LOOPBACK)) as hooks,
    ):
        for number in range(4):
            hooks.on_event(push(number))
        bodies = [json.loads(body) for _, body in received.wait(7)]
        until(lambda: not hooks.queue.depth("a"))
    tags = [body["events"][0]["target"]["tag"] for body in bodies]
    assert tags == ["v0", "v0", "v0", "v1", "v1", "v2", "v3"]


def test_queue_survives_the_process(records: SqliteRecords) -> None:
    Queue(records).put(["a"], push(1))
    with receiver() as (url, received), sending(records, WebhookSection("a", url, allow=LOOPBACK)):
        assert b"sha256:1" in received.wait(1)[0][1]


def test_event_is_given_up_after_its_term_and_can_be_sent_again(records: SqliteRecords) -> None:
    old = NodeEvent("push", "team/app", digest="sha256:1", at=1.0)
    with receiver(lambda number: (500 if number == 1 else 200, {})) as (url, received):
        section = WebhookSection("a", url, allow=LOOPBACK, keep=Duration(1000))
        with sending(records, section) as hooks:
            hooks.on_event(old)
            hooks.on_event(push(2))
            until(lambda: bool(hooks.queue.dead("a")) and not hooks.queue.depth("a"))
        queue = Queue(records)
        ((waiting, reason),) = queue.dead("a")
        assert (waiting.event, "500" in reason) == (old, True)
        assert queue.redeliver("a") == 1
        with sending(records, section):
            assert b"sha256:1" in received.wait(3)[2][1]


def test_operator_sees_what_waits_and_sends_it_again(tmp_path: Path) -> None:
    with receiver(lambda number: (500 if number == 1 else 200, {})) as (url, received):
        section = f"""
        webhooks:
          - {{name: ci, url: "{url}", allow: [127.0.0.0/8], keep: 1ms}}
        """
        with served(tmp_path, section) as running:
            target = Target(running.url, "team/app")
            target.push(target.image("again"), "v1")
            path = "/api/webhooks"
            until(lambda: bool(target.call("GET", path).json[0]["given_up"]))
            (shown,) = target.call("GET", path).json
            assert (shown["waiting"], shown["events"][0]["tags"]) == (0, ["v1"])
            assert target.call("POST", f"{path}/ci/redeliver").json == {"events": 1}
            assert b"team/app" in received.wait(2)[1][1]
            assert target.call("POST", f"{path}/none/redeliver").status == 404


@pytest.mark.parametrize("style", ["docker", "cloudevents", "harbor"])
def test_operator_tries_a_webhook_and_hears_how_it_went(tmp_path: Path, style: str) -> None:
    with receiver(lambda number: (200 if number == 1 else 500, {})) as (url, received):
        section = f"""
        webhooks:
          - {{name: ci, url: "{url}", allow: [127.0.0.0/8], format: {style}}}
        """
        with served(tmp_path, section) as running:
            target = Target(running.url, "team/app")
            assert target.call("POST", "/api/webhooks/ci/test").json == {"delivered": True}
            ((headers, body),) = received.wait(1)
            failed = target.call("POST", "/api/webhooks/ci/test")
            assert failed.status == 502 and b"500" in failed.body
            assert target.call("POST", "/api/webhooks/none/test").status == 404
            assert target.call("GET", "/api/webhooks").json[0]["waiting"] == 0
    assert headers["X-Shipline-Event"] == "ping"
    assert b"ping" in body.lower() and b"DELETE" not in body


def test_one_dead_receiver_does_not_hold_up_another(records: SqliteRecords) -> None:
    with receiver() as (url, received):
        dead = WebhookSection("dead", "http://127.0.0.1:1/", allow=LOOPBACK)
        with sending(records, dead, WebhookSection("good", url, allow=LOOPBACK)) as hooks:
            hooks.on_event(push(1))
            received.wait(1)
            assert hooks.depths()["dead",] == 1


def test_receiver_hears_only_what_it_asked_for() -> None:
    section = WebhookSection("a", "https://example.com/", events=("push",))
    assert section.matches(push(1))
    assert not section.matches(NodeEvent("pull", "team/app"))
    assert not section.matches(NodeEvent("push", "a", media_type="application/octet-stream"))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "169.254.169.254",
        "10.0.0.1",
        "[::ffff:10.0.0.1]",
        "0.0.0.0",
        "[64:ff9b::7f00:1]",
        "[fe80::1]",
        "100.64.0.1",
        "192.168.1.1",
        "0x7f.1",
        "2130706433",
        "[64:ff9b:1::a00:1]",  # NAT64 with a prefix of one's own
        "[2002:a00:1::]",
        "[::10.0.0.1]",
        "[::ffff:0:a00:1]",
        "[fec0::1]",
        "[3fff::1]",
        "192.0.0.8",
    ],
)
def test_row_26_places_inside_are_refused(host: str) -> None:
    with pytest.raises(DeliveryFailed, match="not a public address"):
        post(Place.parse(f"http://{host}:9/"), b"{}", {}, 1)


def test_row_26_redirects_are_judged_too() -> None:
    answers = {"Location": "http://169.254.169.254/latest/meta-data"}
    with receiver(lambda number: (307, answers)) as (url, received):
        with pytest.raises(DeliveryFailed, match=r"169\.254\.169\.254.*not a public"):
            post(Place.parse(url, LOOPBACK), b"{}", {}, 1)
        assert len(received.requests) == 1


def test_redirects_end() -> None:
    with (
        receiver(lambda number: (308, {"Location": "/again"})) as (url, _),
        pytest.raises(DeliveryFailed, match="too many redirects"),
    ):
        post(Place.parse(url, LOOPBACK), b"{}", {}, 1)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "https://", "http://user:pw@example.com/", "gopher://x/", "x"]
)
def test_what_is_no_place_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError, match="url"):
        WebhookSection("a", url)


def test_secret_that_is_not_there_is_an_error() -> None:
    section = WebhookSection("a", "https://example.com/", secret_variable="NONE")
    with pytest.raises(ConfigError, match="NONE"):
        section.secret({})


def test_formats_name_the_same_event() -> None:
    docker = json.loads(body_of("docker", "id", push(1))[1])
    cloud = json.loads(body_of("cloudevents", "id", push(1))[1])
    harbor = json.loads(body_of("harbor", "id", push(1))[1])
    assert docker["events"][0]["target"]["digest"] == "sha256:1"
    assert (cloud["specversion"], cloud["type"]) == ("1.0", "shipline.registry.push")
    assert cloud["data"]["tags"] == ["v1"]
    assert harbor["type"] == "PUSH_ARTIFACT"
    assert harbor["event_data"]["repository"]["repo_full_name"] == "team/app"


def test_a_receiver_that_is_away_does_not_fill_the_disk(
    records: SqliteRecords, caplog: pytest.LogCaptureFixture
) -> None:
    """Events of pulls are made by everybody who may pull."""
    Queue(records).put(["a", "b"], push(0))
    queue = Queue(records, max_events=3)
    for number in range(1, 6):
        queue.put(["a", "b"], push(number))
    assert (queue.depth("a"), queue.depth("b")) == (3, 3)
    assert (
        len([one for one in caplog.records if "a: queue full with 3 events" in one.getMessage()])
        == 1
    )
    for _ in range(5):
        while (waiting := queue.first("a")) is not None:
            queue.give_up("a", waiting, "gone")
        queue.put(["a"], push(9))
    assert len(queue.dead("a")) == 3 and queue.depth("a") == 1
    assert queue.redeliver("a") == 3
    assert (queue.depth("a"), queue.dead("a")) == (4, [])
    assert Queue(records).depth("a") == 4


@pytest.mark.parametrize("speaks", [False, True])
def test_stopping_wakes_a_delivery_that_waits(speaks: bool) -> None:
    """Also in the body of an answer that ends with its connection, whose socket is let go of."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = Place.parse(f"http://127.0.0.1:{server.getsockname()[1]}/", LOOPBACK)
        with pytest.raises((Cancelled, DeliveryFailed)), TaskGroup() as group:
            task = group.start(post, place, b"{}", {}, 3600.0)
            with server.accept()[0] as silent:
                silent.recv(1)
                if speaks:
                    silent.sendall(b"HTTP/1.0 200 OK\r\n\r\nhalf")
                time.sleep(0.2)  # it waits for the rest
                group.scope.cancel()
                task.result()
