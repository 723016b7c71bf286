"""What the fuzzer starts from, by target: well-formed, with every feature of a format."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hpack
import zstandard

from shipline.buildkit.messages import (
    Exporter,
    Packet,
    SolveRequest,
    Stat,
    StatusResponse,
    Timestamp,
    Vertex,
    VertexLog,
    VertexStatus,
)
from shipline.grpc.protobuf import encode

_CASES = Path(__file__).parent.parent / "conformance/dockerfile/cases"
_WORDS = (
    *("${a:-x}\0v", "\"$a\" 'b' \\$c", "${a#*b}\0abab", "${a%%b*}\0abab", "${a/b/c}\0abab"),
    *("${a//b*/c}\0ab", "${a:+${b}}\0x\0y", "<<EOF ${a:?no}", "${a:=x}", "$1 $@ ${a}b", "`$a `$"),
)
_IGNORE = (
    *("*.py\n!a.py\0a.py\0b/a.py", "**/node_modules\n!x/**\0x/node_modules\0x/y/z"),
    *("a/*/b\0a/x/b", "[a-c]?\\*\0ab", "a/**/b/**/c\n!**/d\0a/b/c/d", "x**/y\0xa/y"),
    *("# c\n**foo\n!**/bar*\0xfoo\0a/barx", "*\n!src\n!src/**\n**/*.o\0src/a.o\0src/a.c"),
)
_HEX = "0" * 64
_CACHE = {
    "layers": [
        {
            "blob": f"sha256:{_HEX}",
            "parent": -1,
            "annotations": {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "size": 3,
                "diffID": f"sha256:{_HEX}",
                "createdAt": "2026-01-01T00:00:00Z",
            },
        },
        {"blob": f"sha256:{_HEX}"},
    ],
    "records": [
        {
            "digest": f"sha256:{_HEX}",
            "chains": [{"layers": [0], "createdAt": "2026-01-01T00:00:00Z"}],
            "layers": [{"layer": 0}],
            "inputs": [[{"link": 1, "selector": "x"}, {"link": 1}]],
        },
        {"digest": "a"},
    ],
}


def _dockerfiles() -> Iterator[bytes]:
    for case in sorted(_CASES.glob("*.case")):
        text = case.read_text(errors="replace")
        yield text[max(0, text.find("FROM")) :][:3000].encode()


def _archives() -> Iterator[bytes]:
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for name, kind, content, link in (
                ("d", tarfile.DIRTYPE, b"", ""),
                ("d/f", tarfile.REGTYPE, b"x" * 700, ""),
                ("d/l", tarfile.SYMTYPE, b"", "../.."),
                ("d/l/x", tarfile.REGTYPE, b"a", ""),
                ("h", tarfile.LNKTYPE, b"", "d/f"),
                ("d/.wh.f", tarfile.REGTYPE, b"", ""),
                ("d/.wh..wh..opq", tarfile.REGTYPE, b"", ""),
                ("fifo", tarfile.FIFOTYPE, b"", ""),
                ("n" * 120, tarfile.REGTYPE, b"q", ""),
                ("s", tarfile.SYMTYPE, b"", "t" * 130),
            ):
                member = tarfile.TarInfo(name)
                member.type, member.size, member.linkname = kind, len(content), link
                if form == tarfile.PAX_FORMAT:
                    sparse = {"GNU.sparse.size": "9", "GNU.sparse.map": "2,1"}
                    more = sparse if content == b"q" else {}
                    member.pax_headers = {"SCHILY.xattr.user.a": "b", "mtime": "1.5", **more}
                archive.addfile(member, io.BytesIO(content))
        yield buffer.getvalue().rstrip(b"\0") + bytes(1024)


def _compressed() -> Iterator[bytes]:
    for archive in _archives():
        yield archive
        for compress in (gzip.compress, bz2.compress, lzma.compress, zstandard.compress):
            yield compress(archive)


def _messages() -> Iterator[bytes]:
    vertex = Vertex("sha256:a", ["sha256:b"], "[1/2] RUN x", True, Timestamp(1, 2), error="e")
    status = VertexStatus("id", "sha256:a", "name", 1, 2, Timestamp(3, 4))
    log = VertexLog("sha256:a", None, 2, b"x\n")
    yield encode(StatusResponse([vertex, vertex], [status], [log]))
    yield encode(Packet(2, Stat("a/b", 0o644, size=3, xattrs={"user.x": b"1"}), 4, b"data"))
    exporter = Exporter("image", {"name": "x", "push": "true"})
    yield encode(SolveRequest("r", "image", {"a": "b"}, "s", "dockerfile.v0", {"target": "x"}))
    yield encode(SolveRequest(exporters=[exporter], entitlements=["network.host"]))


def _frames() -> Iterator[bytes]:
    """An answer: headers, a message in DATA, trailers; and what else a server may send."""
    encoder = hpack.Encoder()
    headers = encoder.encode([(":status", "200"), ("content-type", "application/grpc")])
    trailers = encoder.encode([("grpc-status", "2"), ("grpc-message", "no"), ("x-bin", "AAE")])
    body = b"\0\0\0\0\x03abc"
    answer = [_frame(1, 4, 1, headers), _frame(0, 0, 1, body), _frame(1, 5, 1, trailers)]
    yield b"".join(answer)
    yield _frame(4, 1, 0, b"") + _frame(6, 0, 0, bytes(8)) + _frame(8, 0, 0, b"\0\0\1\0")
    yield answer[0] + _frame(3, 0, 1, b"\0\0\0\x08")
    yield answer[0] + _frame(0, 8, 1, b"\x02\0\0\0\0\x01a\0\0") + answer[2]
    yield _frame(7, 0, 0, bytes(7) + b"\x02gone")
    yield _frame(1, 0, 1, headers[:2]) + _frame(9, 4, 1, headers[2:]) + answer[1]


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


_RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    b"HTTP/1.0 404 Not Found\n\nuntil the end",
    b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n b\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n0A; name=value\r\n0123456789\r\n0\r\nDigest: x\r\n\r\n",
)


SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "parser": _dockerfiles,
    "words": lambda: (one.encode() for one in _WORDS),
    "ignore": lambda: (one.encode() for one in _IGNORE),
    "tar": lambda: (bytes([kind]) + one for one in _archives() for kind in range(3)),
    "archive": _compressed,
    "cache": lambda: iter([json.dumps(_CACHE).encode()]),
    "protobuf": _messages,
    "http2": _frames,
    "response": lambda: iter(_RESPONSES),
}
