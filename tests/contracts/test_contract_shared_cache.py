"""A cache in levels on a real Redis and a real Valkey: whatever the server does, a value that was
put is returned or forgotten, and one that was dropped does not come back.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from peers import REDIS, Redis, free_port, redis
from shipline.metadata import LeveledCache, RedisCache, RedisUrl, SqliteRecords
from shipline.registry.credentials import Credentials
from shipline.registry.shared import SharedCache

pytestmark = pytest.mark.peers
SOON_S = 10.0


@pytest.fixture(scope="module", params=REDIS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Redis]:
    with redis(tmp_path_factory.mktemp("redis"), server=request.param) as running:
        yield running


@pytest.fixture
def empty(server: Redis) -> Redis:
    server.ask("FLUSHALL")
    return server


def cache(url: str, clock: Callable[[], float] = time.monotonic) -> RedisCache:
    return RedisCache(RedisUrl.parse(url), clock)


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


def test_what_one_puts_another_gets_until_it_is_dropped(empty: Redis) -> None:
    one, other = LeveledCache(cache(empty.url)), LeveledCache(cache(empty.url))
    value = bytes(range(256)) * 300
    one.put("shipline:a", value)
    assert other.get("shipline:a") == value
    one.drop("shipline:a")
    assert LeveledCache(cache(empty.url)).get("shipline:a") is None


def test_redis_forgets_a_value_with_its_time(empty: Redis) -> None:
    cache(empty.url).put("shipline:a", b"x", 0.05)
    time.sleep(0.1)
    assert empty.names() == []


@pytest.mark.parametrize("kind", ["acl", "tls", "acl and tls", "socket"])
@pytest.mark.parametrize("name", REDIS)
def test_every_way_in_works(name: str, kind: str, tmp_path: Path) -> None:
    user = ("pusher", "s3cret") if "acl" in kind else None
    with redis(
        tmp_path, server=name, user=user, tls="tls" in kind, socket=kind == "socket"
    ) as running:
        one = cache(running.url)
        one.put("shipline:a", b"x", 60)
        assert one.get("shipline:a") == b"x"
        if user:
            wrong = cache(running.url.replace("s3cret", "guess"))
            assert wrong.get("shipline:a") is None
        if "tls" in kind:
            untrusting = cache(running.url.partition("?")[0])
            assert untrusting.get("shipline:a") is None


def test_a_wrong_password_is_reported_once_and_not_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with redis(tmp_path, user=("pusher", "s3cret")) as running:
        now = [0.0]
        one = cache(running.url.replace("s3cret", "hunter2"), lambda: now[0])
        for _ in range(3):
            assert one.get("shipline:a") is None
            now[0] += 1000
    assert len(caplog.records) == 1 and "WRONGPASS" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("name", REDIS)
def test_a_server_without_auth_does_not_bring_the_password_into_the_log(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with redis(tmp_path, server=name, options=("--rename-command", "AUTH", "")) as running:
        one = cache(running.url.replace("://", "://:hunter2@"))
        assert one.get("shipline:a") is None
    assert "unknown command" in caplog.text and "hunter2" not in caplog.text


def test_threads_that_fail_together_make_one_pause() -> None:
    now = [0.0]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = cache(f"redis://127.0.0.1:{listener.getsockname()[1]}", lambda: now[0])
        threads = [threading.Thread(target=one.get, args=("shipline:a",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        listener.settimeout(SOON_S)
        for _ in threads:
            listener.accept()[0].close()
        now[0] += 1.5  # the first pause is over
        assert one.get("shipline:a") is None
        listener.accept()[0].close()


def test_a_process_keeps_fewer_large_values() -> None:
    levels = LeveledCache()
    for number in range(2000):
        levels.put(str(number), bytes(100_000))
    assert levels.get("1999") is not None and levels.get("0") is None


def test_a_paused_server_costs_little_and_is_used_again(empty: Redis) -> None:
    now = [0.0]
    one = cache(empty.url, lambda: now[0])
    one.put("shipline:a", b"x", 60)
    empty.pause()
    try:
        with bounded(SOON_S):
            for _ in range(1000):
                assert one.get("shipline:a") is None
            one.drop("shipline:a")
            one.put("shipline:b", b"y", 60)
    finally:
        empty.resume()
    now[0] += 100
    assert one.get("shipline:a") is None, "it was dropped while the server was away"
    assert one.get("shipline:b") is None
    one.put("shipline:a", b"new", 60)
    assert one.get("shipline:a") == b"new"


def test_a_full_server_still_answers(tmp_path: Path) -> None:
    options = ("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    with redis(tmp_path, options=options) as running:
        one = cache(running.url)
        one.put("shipline:first", b"x", 600)
        for number in range(100):
            one.put(f"shipline:{number}", os.urandom(100_000), 600)
        assert one.get("shipline:first") == b"x"
        assert one.get("shipline:99") is None
        assert LeveledCache(one).get("shipline:99") is None


def test_a_server_that_is_killed_and_started_again_is_used_again(tmp_path: Path) -> None:
    port = free_port()
    with redis(tmp_path / "a", port=port) as first:
        now = [0.0]
        one = cache(first.url, lambda: now[0])
        levels = LeveledCache(one, SqliteRecords(tmp_path / "records"))
        levels.put("shipline:a", b"x")
        os.kill(first.pid, signal.SIGKILL)
        assert levels.get("shipline:a") == b"x"
        with bounded(SOON_S):
            levels.put("shipline:b", b"y")
            assert levels.get("shipline:c") is None
    with redis(tmp_path / "b", port=port) as second:
        now[0] += 100
        again = LeveledCache(one, SqliteRecords(tmp_path / "records"))
        assert again.get("shipline:b") == b"y", "from the records of this machine"
        assert len(second.names()) == 1, "which gave it to the new server"


def test_what_was_flushed_is_forgotten_and_nothing_else(empty: Redis) -> None:
    levels = LeveledCache(cache(empty.url))
    levels.put("shipline:a", b"x")
    empty.ask("FLUSHALL")
    assert levels.get("shipline:a") == b"x", "in this process"
    assert LeveledCache(cache(empty.url)).get("shipline:a") is None


def test_an_idle_connection_that_the_server_closed_is_replaced(empty: Redis) -> None:
    one = cache(empty.url)
    one.put("shipline:a", b"x", 60)
    empty.ask("CLIENT", "KILL", "TYPE", "normal")
    assert one.get("shipline:a") == b"x"


@pytest.mark.parametrize(
    "wrong",
    [
        ("SET", "{key}", ""),
        ("SET", "{key}", "short"),
        ("SET", "{key}", "x" * 500),
        ("SETRANGE", "{key}", "0", "zzzz"),
        ("SETRANGE", "{key}", "30", "zzzz"),  # fewer may be there already
        ("LPUSH", "{key}", "a list"),
    ],
)
def test_values_put_in_by_hand_are_not_believed(empty: Redis, wrong: tuple[str, ...]) -> None:
    alice = Credentials("alice", "secret")
    SharedCache(LeveledCache(cache(empty.url))).of("reg", alice).put(b"token", 60, "a")
    (key,) = empty.names()
    if wrong[0] == "LPUSH":
        empty.ask("DEL", key)
    empty.ask(*(word.format(key=key) for word in wrong))
    assert SharedCache(LeveledCache(cache(empty.url))).of("reg", alice).get("a") is None


def test_a_value_in_the_place_of_another_is_not_believed(empty: Redis) -> None:
    alice = Credentials("alice", "secret")
    sealed = SharedCache(LeveledCache(cache(empty.url))).of("reg", alice)
    sealed.put(b"mine", 60, "mine")
    (mine,) = empty.names()
    sealed.put(b"yours", 60, "yours")
    (yours,) = set(empty.names()) - {mine}
    empty.ask("COPY", mine, yours, "REPLACE")
    again = SharedCache(LeveledCache(cache(empty.url))).of("reg", alice)
    assert again.get("yours") is None and again.get("mine") == b"mine"


def test_a_value_that_is_kept_longer_than_it_was_sealed_for_is_not_believed(
    empty: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = Credentials("alice", "secret")
    SharedCache(LeveledCache(cache(empty.url))).of("reg", alice).put(b"old", 60, "a")
    (key,) = empty.names()
    sealed = LeveledCache(cache(empty.url)).get(key)
    assert sealed is not None
    again = SharedCache(LeveledCache(cache(empty.url))).of("reg", alice)
    assert again.get("a") == b"old"
    LeveledCache(cache(empty.url)).put(key, sealed, 600)
    later = SimpleNamespace(time=lambda: time.time() + 61)
    monkeypatch.setattr("shipline.registry.shared.time", later)
    again = SharedCache(LeveledCache(cache(empty.url))).of("reg", alice)
    assert again.get("a") is None


def test_only_who_has_the_credentials_finds_and_reads(empty: Redis) -> None:
    def seen(host: str, credentials: Credentials | None) -> bytes | None:
        return SharedCache(LeveledCache(cache(empty.url))).of(host, credentials).get("token", "x")

    alice = Credentials("alice", "secret")
    SharedCache(LeveledCache(cache(empty.url))).of("reg", alice).put(b"t0ken", 60, "token", "x")
    assert seen("reg", alice) == b"t0ken"
    others = [None, Credentials("alice", "other"), Credentials("bob", "secret")]
    others.append(Credentials("alice", identity_token="secret"))
    assert [seen("reg", one) for one in others] == [None] * 4
    assert seen("other", alice) is None
    dump = empty.ask("--raw", "GET", empty.names()[0]) + empty.names()[0]
    assert not any(word in dump for word in ("alice", "secret", "t0ken", "reg"))


def test_an_expiry_that_nobody_writes_is_not_believed(empty: Redis, tmp_path: Path) -> None:
    now = [time.time()]
    writer = LeveledCache(cache(empty.url), clock=lambda: now[0] + 86400)
    writer.put("shipline:a", b"x")
    reader = LeveledCache(cache(empty.url), SqliteRecords(tmp_path / "r"), clock=lambda: now[0])
    assert reader.get("shipline:a") is None
    reader.put("shipline:b", b"y", ttl_s=50)
    now[0] += 51
    assert reader.get("shipline:b") is None


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"+PONG\r\n$99999999999\r\n",
        b"+PONG\r\n$-7\r\n",
        b"+PONG\r\n$3\r\nabcde",
        b"+PONG\r\n*1\r\n$1\r\na\r\n",
        b"+PONG\r\n" + b"+" * 100_000,
        b"-NOAUTH Authentication required.\r\n",
        b"-\x1b[31mEVIL\x1b]0;pwn\x07" + b"x" * 3000 + b"\r\n",
        b"",
    ],
)
def test_what_is_no_redis_is_left_alone(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    connections = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            connection.recv(4096)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with bounded(SOON_S):
            one = cache(f"redis://127.0.0.1:{listener.getsockname()[1]}")
            assert [one.get("shipline:a") for _ in range(100)] == [None] * 100
        assert caplog.messages[0].isprintable() and len(caplog.messages[0]) < 400
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in connections:
            connection.close()


def test_records_that_are_damaged_or_full_are_done_without(tmp_path: Path) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Callable[..., None]:
            def fail(*_: object, **__: object) -> None:
                raise OSError("no")

            return fail

    levels = LeveledCache(None, Broken())  # type: ignore[arg-type]
    levels.put("a", b"x")
    assert levels.get("a") == b"x" and levels.get("b") is None
    levels.drop("a")
    levels.close()
    assert levels.get("a") is None


def test_records_do_not_grow_without_end(tmp_path: Path) -> None:
    now = [time.time()]
    records = SqliteRecords(tmp_path / "r")
    levels = LeveledCache(None, records, clock=lambda: now[0])
    for number in range(1100):
        levels.put(str(number), b"x", ttl_s=10)
    now[0] += 11
    for number in range(1000):
        levels.put(f"new {number}", b"x")
    assert len(records.scan((), limit=5000)) <= 1000
