"""HTTP exchanges with small test applications; no registry is involved."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shipline.server.app import Application
from shipline.server.exchange import AiohttpHandler
from shipline.server.http import (
    DISK,
    LOOP,
    PAUSE,
    READ,
    Beyond,
    ClientGone,
    Coro,
    File,
    Growing,
    GrowingNumber,
    Request,
    Response,
    RouteMatch,
    route,
)
from shipline.server.limits import MinimumRate, ThreadPools

GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def serving(app: Application, talk: Callable[[int], Coroutine[Any, Any, bytes]]) -> bytes:
    """What `talk` returns, which gets the port of a server of `app`."""

    async def main() -> bytes:
        conversation = AiohttpHandler(app, MinimumRate(30, 1), scheme="http")
        server = web.Server(conversation.handle, access_log=None, lingering_time=0.5)
        listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        try:
            return await asyncio.wait_for(talk(listening.sockets[0].getsockname()[1]), 60)
        finally:
            listening.close()
            await server.shutdown(0.1)
            conversation.pools.close()

    return asyncio.run(main())


def asked(app: Application, *requests: bytes) -> bytes:
    """All that comes back until the server ends the connection."""

    async def talk(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in requests:
            writer.write(request)
            await writer.drain()
            await asyncio.sleep(0.05)
        answer = await reader.read()
        writer.close()
        return answer

    return serving(app, talk)


def fixed(response: Response) -> Application:
    def app(request: Request) -> Coro[Response]:
        yield LOOP
        return response

    return app


def receiving(work: Callable[[Request], Coro[Response]]) -> Application:
    """An application that takes bodies of any size."""

    def app(request: Request) -> Coro[Response]:
        request.match = RouteMatch(route("/", requires="open", PUT=work), work, {})
        return (yield from work(request))

    return app


def put(body: bytes, *fields: str) -> bytes:
    head = "\r\n".join(["PUT / HTTP/1.1", "Host: x", "Connection: close", *fields])
    return f"{head}\r\n\r\n".encode() + body


def test_pieces_come_in_chunks_when_they_are_there() -> None:
    def pieces() -> Iterator[bytes]:
        for text in (b"one", b"two", b"three"):
            time.sleep(0.02)
            yield text

    answer = asked(fixed(Response(200, [], pieces())), GET)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert body == b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n"


def test_an_old_client_gets_pieces_until_the_end() -> None:
    old = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    answer = asked(fixed(Response(200, [], iter([b"one", b"two"]))), old)
    assert answer.endswith(b"\r\n\r\nonetwo") and b"chunked" not in answer


def test_a_part_of_a_file_is_sent(tmp_path: Path) -> None:
    path, content = tmp_path / "file", bytes(range(256)) * 4000
    path.write_bytes(content)
    for start, size in ((0, len(content)), (1000, 900_000), (5, 3), (len(content), 0)):
        response = Response(200, [("Content-Length", str(size))], File(path, start, size), size)
        assert asked(fixed(response), GET).endswith(b"\r\n\r\n" + content[start : start + size])


def test_a_file_that_has_gone_is_404(tmp_path: Path) -> None:
    answer = asked(fixed(Response(200, [], File(tmp_path / "none", 0, 9), 9)), GET)
    assert answer.startswith(b"HTTP/1.1 404 ") and b"BLOB_UNKNOWN" in answer


def test_a_file_that_was_cut_ends_the_connection(tmp_path: Path) -> None:
    """Never with other bytes in place of those that are missing."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    response = Response(200, [("Content-Length", "200000")], File(path, 0, 200_000), 200_000)
    keep = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    body = asked(fixed(response), keep).partition(b"\r\n\r\n")[2]
    assert body == b"x" * 100_000


def test_a_header_of_two_lines_is_not_sent() -> None:
    answer = asked(fixed(Response.of(200, [("X", "a\r\nSet-Cookie: b")])), GET)
    assert answer.startswith(b"HTTP/1.1 500 ") and b"Set-Cookie" not in answer


def test_a_body_comes_in_order_and_to_its_end() -> None:
    sent = bytes(range(256)) * 9000

    def work(request: Request) -> Coro[Response]:
        yield DISK
        seen = b""
        while data := (yield READ):
            seen += data
        yield PAUSE
        return Response.of(200, (), b"same" if seen == sent else b"other")

    chunked = b"".join(
        b"%x\r\n%b\r\n" % (len(part), part)
        for part in (sent[at : at + 70_001] for at in range(0, len(sent), 70_001))
    )
    whole = put(sent, f"Content-Length: {len(sent)}")
    for raw in (whole, put(chunked + b"0\r\n\r\n", "Transfer-Encoding: chunked")):
        assert asked(receiving(work), raw).endswith(b"\r\n\r\nsame")


def test_a_truncated_body_is_distinguished_from_a_complete_one() -> None:
    for fields, body in (
        ("Content-Length: 9", b"abc"),
        ("Transfer-Encoding: chunked", b"3\r\nabc"),
    ):
        seen: list[object] = []
        ended = threading.Event()

        def work(
            request: Request, seen: list[object] = seen, ended: threading.Event = ended
        ) -> Coro[Response]:
            try:
                while data := (yield READ):
                    seen.append(data)
            except ClientGone as gone:
                seen.append(gone.status)
                raise
            finally:
                ended.set()
            return Response.of(200)

        async def talk(
            port: int, raw: bytes = put(body, fields), ended: threading.Event = ended
        ) -> bytes:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(raw)
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.close()
            while not ended.is_set():
                await asyncio.sleep(0.01)
            return b""

        serving(receiving(work), talk)
        assert seen == [b"abc", 400]


LARGE = 20 << 20  # bytes of a body that is read from the socket


@dataclass
class Counted:
    """An application that reads a body, and what it has read."""

    size: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    end: str = ""

    def __call__(self, request: Request) -> Coro[Response]:
        yield DISK
        try:
            while data := (yield READ):
                self.digest.update(data)
                self.size += len(data)
            self.end = "whole"
        except ClientGone:
            self.end = "broken"
        assert request.received == self.size
        return Response.of(200)

    def read(self, sent: bytes) -> bool:
        return self.size == len(sent) and self.digest.digest() == hashlib.sha256(sent).digest()


@pytest.mark.parametrize("fields", [(), ("Expect: 100-continue",)])
def test_a_large_body_comes_in_order_and_ends_its_connection(fields: tuple[str, ...]) -> None:
    sent, seen = os.urandom(LARGE), Counted()
    raw = put(sent, f"Content-Length: {LARGE}", *fields).replace(b"Connection: close\r\n", b"")
    answer = asked(receiving(seen), raw)
    assert seen.read(sent) and seen.end == "whole"
    assert b"HTTP/1.1 200 OK\r\n" in answer and b"Connection: close\r\n" in answer
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n") is bool(fields)


@pytest.mark.parametrize("size", [3, 10 << 20])
def test_of_a_large_body_that_breaks_off_all_that_came_is_read(size: int) -> None:
    sent, seen = os.urandom(size), Counted()

    async def talk(port: int) -> bytes:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(put(sent, f"Content-Length: {LARGE}"))
        while not seen.size:
            await asyncio.sleep(0.01)
        writer.close()
        while not seen.end:
            await asyncio.sleep(0.01)
        return b""

    serving(receiving(seen), talk)
    assert seen.read(sent) and seen.end == "broken"


def test_a_large_body_can_be_refused_before_its_end() -> None:
    def work(request: Request) -> Coro[Response]:
        yield DISK
        assert (yield READ)
        return Response.of(413)

    answer = asked(receiving(work), put(bytes(LARGE), f"Content-Length: {LARGE}"))
    assert answer.startswith(b"HTTP/1.1 413 ") and b"Connection: close" in answer


def test_no_address_gets_all_threads() -> None:
    async def main() -> None:
        pools, go_on = ThreadPools(), threading.Event()
        crowd = [
            asyncio.create_task(pools.run(DISK, "192.0.2.1", go_on.wait, 60)) for _ in range(64)
        ]
        await asyncio.sleep(0.05)
        try:
            await asyncio.wait_for(pools.run(DISK, "192.0.2.2", time.sleep, 0), 30)
            assert not any(task.done() for task in crowd)
        finally:
            go_on.set()
            await asyncio.gather(*crowd)
            pools.close()

    asyncio.run(main())


def test_a_network_of_version_6_is_one_address() -> None:
    async def main() -> int:
        pools, running, most = ThreadPools(), [0], 0

        def work() -> None:
            running[0] += 1
            time.sleep(0.05)
            running[0] -= 1

        crowd = [
            asyncio.create_task(pools.run(DISK, f"2001:db8::{number}", work))
            for number in range(32)
        ]
        while not all(task.done() for task in crowd):
            most = max(most, running[0])
            await asyncio.sleep(0.005)
        pools.close()
        return most

    assert asyncio.run(main()) <= 12


def grows(path: Path, size: int, progress: GrowingNumber) -> Response:
    def opened() -> int:
        return os.open(path, os.O_RDONLY)

    body = Growing(opened, 0, size, progress)
    return Response(200, [("Content-Length", str(size))], body, size)


def test_a_growing_file_is_sent_as_far_as_it_may_be(tmp_path: Path) -> None:
    path, content = tmp_path / "file", bytes(range(256)) * 4000
    path.write_bytes(content)
    progress = GrowingNumber()
    steps = [0, 1, 1000, 500_000, len(content)]

    def advance() -> None:
        for step in steps:
            time.sleep(0.02)
            progress.advance(step)
        progress.end()

    thread = threading.Thread(target=advance)
    thread.start()
    answer = asked(fixed(grows(path, len(content), progress)), GET)
    thread.join()
    assert answer.endswith(b"\r\n\r\n" + content)


def test_a_growing_file_that_fails_breaks_the_connection_before_its_last_bytes(
    tmp_path: Path,
) -> None:
    path, content = tmp_path / "file", b"x" * 200_000
    path.write_bytes(content)
    progress = GrowingNumber()
    progress.advance(100_000)
    threading.Timer(0.1, progress.end, [OSError("wrong")]).start()
    answer = asked(fixed(grows(path, len(content), progress)), GET)
    assert answer.partition(b"\r\n\r\n")[2] == content[:100_000]


def test_all_that_wait_for_a_growing_file_cost_no_thread(tmp_path: Path) -> None:
    path, content = tmp_path / "file", os.urandom(300_000)
    path.write_bytes(content)
    progress = GrowingNumber()
    response = grows(path, len(content), progress)

    async def one(port: int) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        answer = await reader.read()
        writer.close()
        return answer.endswith(content)

    async def talk(port: int) -> bytes:
        tasks = [asyncio.create_task(one(port)) for _ in range(100)]
        await asyncio.sleep(0.5)
        threads.append(threading.active_count())
        progress.advance(len(content))
        progress.end()
        return bytes(await asyncio.gather(*tasks))

    threads = [threading.active_count()]
    assert serving(fixed(response), talk) == b"\1" * 100
    assert threads[1] - threads[0] <= 1


def test_requests_wait_for_what_another_thread_does() -> None:
    progress = GrowingNumber()

    def app(request: Request) -> Coro[Response]:
        seen = progress.value
        while not progress.ended:
            yield Beyond(progress, seen)
            seen = progress.value
        return Response.of(200, body=b"%d" % progress.value)

    threading.Timer(0.1, progress.advance, [7]).start()
    threading.Timer(0.2, progress.end).start()
    assert asked(app, GET).endswith(b"\r\n\r\n7")
