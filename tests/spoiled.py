"""What a cache service may answer instead of the truth: broken by a proxy, a bug, or an enemy."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

from peers.hostile_caches import Act, CacheReply, CacheRequest
from shipline.values import replace

SECRET = "sig=leaked"  # in URLs that a service signs
_LATE = "Fri, 31 Dec 9999 23:59:59 -2359"
_TIMES = ("Mon, 01 Jan 0001 00:00:00 +2359", _LATE, "Fri, 31 Dec 9999 23:59:59 -0000", "x", "")
_WAITS = ("", "0", "-1", "²", "1e9", "99999999999", *_TIMES)
_BODIES = (
    b"",
    b"<html>no",
    b'{"code":"x","msg":"y"}',
    b"<Error><Code>SlowDown</Code><Message>\x1b[31m</Message></Error>",
    b"\xff\xfe\x00" * 50,
    b"[" * 200_000,
    b'{"a":' * 50_000,
    b"9" * 5000,
    b"null",
    b"[]",
    b'{"ok":true}',
    b'{"ok":1,"signed_download_url":5,"matched_key":[]}',
    b'{"layers":null,"records":null}',
    b"1e999",
)
_URLS = (
    f"http://127.0.0.1:1/a?{SECRET}",
    f"http://169.254.169.254/x?{SECRET}",
    f"ftp://h/?{SECRET}",
    "http://user:leaked@h/",
    f"http://h\x01/?{SECRET}",
    f"http://[::1/?{SECRET}",
    f"http://h:99999/?{SECRET}",
    f"http://{'a' * 20_000}?{SECRET}",
    "file:///etc/passwd",
    "//[",
    "",
)
_NUMBERS = (1, -1, 10**30, 1e308, True)
_TEXTS = (
    "",
    "x",
    "\ud800",
    "sha256:" + "0" * 64,
    "sha256:../../../etc/passwd",
    "../..",
    "text/html",
)
_INSTANTS = ("9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-01-01T00:00:00")
_VALUES: tuple[object, ...] = (None, [], {}, [[]], [{}], *_NUMBERS, *_TEXTS, *_INSTANTS)
_HEADERS = {
    "ETag": ("", "²", '"', "x" * 60_000),
    "Last-Modified": _TIMES,
    "Content-Range": ("bytes ²-1/2", "bytes 5-6/7", "bytes */0"),
    "Content-Encoding": ("gzip",),
    "Content-Length": ("0", "1", "-1", "²", "1, 2", "+5", "0x5", "9" * 30, "99999999999", ""),
    "x-ms-error-code": ("ContainerNotFound", "\x1b[31m"),
    "x-amz-bucket-region": ("\x1b[31m", "eu-central-1"),
    "Warning": ('299 - "\x1b[31m"',),
}

Kind = Callable[[CacheRequest, CacheReply, random.Random], CacheReply | Act]


def cut(request: CacheRequest, reply: CacheReply, chance: random.Random) -> Act:
    whole = reply.raw(request.method)
    return lambda sock: sock.sendall(whole[: chance.randrange(len(whole))])


def reset(request: CacheRequest, reply: CacheReply, chance: random.Random) -> Act:
    def act(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    return act


def refuse(request: CacheRequest, reply: CacheReply, chance: random.Random) -> CacheReply:
    status = chance.choice((400, 401, 403, 404, 405, 408, 409, 410, 412, 413, 416, 429, 500, 503))
    return CacheReply(status, chance.choice(_BODIES), {"Retry-After": chance.choice(_WAITS)})


def accept(request: CacheRequest, reply: CacheReply, chance: random.Random) -> CacheReply:
    status = chance.choice((200, 200, 201, 204, 206, 299, 100, 101))
    return CacheReply(status, chance.choice(_BODIES))


def redirect(request: CacheRequest, reply: CacheReply, chance: random.Random) -> CacheReply:
    status = chance.choice((300, 301, 302, 303, 304, 307, 308))
    return CacheReply(status, headers={"Location": chance.choice((*_URLS, request.path))})


def header(request: CacheRequest, reply: CacheReply, chance: random.Random) -> CacheReply:
    name = chance.choice(list(_HEADERS))
    return replace(reply, headers={**reply.headers, name: chance.choice(_HEADERS[name])})


def huge(request: CacheRequest, reply: CacheReply, chance: random.Random) -> Act:
    length = chance.choice(("", "Content-Length: 1000000000\r\n", "Transfer-Encoding: chunked\r\n"))

    def act(sock: socket.socket) -> None:
        sock.sendall(f"HTTP/1.1 {reply.status} OK\r\n{length}\r\n".encode())
        for _ in range(100):
            sock.sendall(b"A" * (1 << 20))

    return act


def junk(request: CacheRequest, reply: CacheReply, chance: random.Random) -> CacheReply:
    return replace(reply, body=chance.randbytes(chance.choice((0, 1, 10, 1000, 100_000))))


def flip(request: CacheRequest, reply: CacheReply, chance: random.Random) -> CacheReply:
    body = bytearray(reply.body)
    for _ in range(chance.choice((1, 1, 5, 50)) if body else 0):
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    return replace(reply, body=bytes(body))


def document(request: CacheRequest, reply: CacheReply, chance: random.Random) -> CacheReply:
    """JSON of another meaning: a cache document, or an answer of a service."""
    try:
        found = json.loads(reply.body)
    except ValueError:
        return reply
    for _ in range(chance.choice((1, 1, 2, 5))):
        if places := list(_places(found)):
            holder, key = chance.choice(places)
            own = [one[name] for one, name in places[:40]]
            holder[key] = chance.choice((*_VALUES, *_URLS, *own))
    return replace(reply, body=json.dumps(found).encode())


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in list(pairs) if isinstance(value, dict | list) else ():
        yield value, key
        yield from _places(one)


SPOILED: tuple[Kind, ...] = (
    *(cut, reset, refuse, accept, redirect, header, huge, junk, flip, document),
    *(document, header, cut),
)
