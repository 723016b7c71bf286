"""What the fuzzer calls with bytes: each reader of text or bytes that others write.

A target may raise nothing but what it suppresses: the errors that tell a user what is wrong. What
the laws of a reader promise is asserted besides.
"""

from __future__ import annotations

import io
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import cast, get_args

from shipline import dockerfile as df
from shipline.build.caching.document import CacheDocument, CacheKey
from shipline.buildkit.messages import FrontendResult, Packet, SolveRequest, StatusResponse
from shipline.errors import ContentError, DockerfileError
from shipline.grpc.connection import Connection, RpcError
from shipline.grpc.containerd import ReadResponse
from shipline.grpc.protobuf import MalformedMessage, decode, encode
from shipline.layer import Whiteouts, decompress, read_tar, sniff, unpack, write_tar
from shipline.registry.response import MalformedResponse, ReceivedResponse
from shipline.tasks import TaskGroup

_PLATFORMS = df.PlatformArgs("linux/arm64", "linux/amd64")
_BLOCK = 512  # bytes
_PREFACE = b"\0\0\0\x04\0\0\0\0\0"  # SETTINGS, with which a server begins
_LARGEST = 1 << 20  # bytes that an archive may unpack to


def parser(raw: bytes) -> None:
    """A Dockerfile: stages, plan, checks, the scope of every instruction, and its history."""
    with suppress(DockerfileError):
        df.detect_syntax(raw.decode("utf-8", "replace"))
        file = df.parse_dockerfile(raw)
        df.lint(file, _PLATFORMS)
        globals_ = df.open_scope(file, _PLATFORMS, build_args={"a": "1"})
        plan = df.stage_plan(
            file, file.stages[-1], lambda stage: globals_.base_of(stage).name, all_stages=True
        )
        for stage in plan.stages:
            scope = df.VariableScope.of_image(["PATH=/bin"])
            for one in plan.instructions(stage):
                before, applied = scope, df.apply(one, scope, globals_)
                df.history_text(applied.instruction, before)
                df.makes_layer(applied.instruction)
                scope = applied.scope


def words(raw: bytes) -> None:
    """A word with variables; its words hold what its text holds."""
    text, *values = raw.decode("utf-8", "replace").split("\0")
    variables = dict(zip("abcdefgh", values, strict=False))
    for escape in "\\`":
        with suppress(DockerfileError):
            found = df.process_word(text, variables, escape=escape)
            assert "".join(found.words) in found.text or len(found.words) != 1
            assert found.used <= variables.keys() and not found.undefined & variables.keys()


def ignore(raw: bytes) -> None:
    """An ignore file and paths: rules one by one decide as they do together."""
    text, *paths = raw.decode("utf-8", "replace").split("\0")
    with suppress(DockerfileError):
        rules = df.IgnoreRules.parse(text)
        for path in filter(_is_clean, paths):
            assert rules.ignores(path) == _ignored(rules, path)
            if (parent := os.path.dirname(path)) and rules.ignores(parent):
                reincluded = not rules.ignores(path)
                assert not reincluded or rules.may_reinclude(parent, rules.match(parent))


def _is_clean(path: str) -> bool:
    return path == os.path.normpath(path) and not path.startswith(("/", "..")) and path != "."


def _ignored(rules: df.IgnoreRules, path: str) -> bool:
    """As moby's patternmatcher, from directory to directory, rule by rule."""
    parts = path.split("/")
    above = [False] * len(rules.patterns)
    ignored = False
    for end in range(1, len(parts) + 1):
        ignored, matched = False, []
        for rule, was_matched in zip(rules.patterns, above, strict=True):
            skipped = rule.negated != ignored
            found = was_matched or (
                not skipped and bool(rule.expression.fullmatch("/".join(parts[:end])))
            )
            matched.append(found)
            ignored = not rule.negated if found else ignored
        above = matched
    return ignored


def tar(raw: bytes) -> None:
    """An archive: what is read can be written and read again, and is unpacked in its place."""
    kinds: tuple[Whiteouts, ...] = get_args(Whiteouts)
    whiteouts = kinds[raw[0] % len(kinds)] if raw else kinds[0]
    raw = b"".join(_sealed(raw[1:]))
    with suppress(ContentError):
        items = [
            (entry, None if content is None else content.read(_LARGEST))
            for entry, content in read_tar(decompress(io.BytesIO(raw), "uncompressed"))
            if entry.size <= _LARGEST
        ]
        again = b"".join(write_tar(items))
        assert list(_read(again)) == items
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        place = Path(scratch)
        (place / "canary").write_bytes(b"canary")
        (place / "root").mkdir()
        with suppress(ContentError):
            unpack(
                read_tar(io.BytesIO(raw)),
                place / "root",
                whiteouts=whiteouts,
                max_entries=500,
                max_bytes=_LARGEST,
            )
        assert sorted(os.listdir(place)) == ["canary", "root"]
        assert (place / "canary").read_bytes() == b"canary"
        assert (place / "canary").stat().st_nlink == 1


def _read(raw: bytes) -> Iterator[tuple[object, bytes | None]]:
    for entry, content in read_tar(io.BytesIO(raw)):
        yield entry, None if content is None else content.read()


def _sealed(raw: bytes) -> Iterator[bytes]:
    """The blocks of an archive; those that look like headers have the right checksum."""
    for start in range(0, len(raw), _BLOCK):
        block = raw[start : start + _BLOCK]
        if block[257:262] == b"ustar" and len(block) == _BLOCK:
            total = sum(block[:148]) + sum(block[156:]) + 8 * 0x20
            block = b"%b%06o\0 %b" % (block[:148], total, block[156:])
        yield block


def archive(raw: bytes) -> None:
    """A compressed archive of any kind, as ADD takes it."""
    kind = sniff(raw[:_BLOCK])
    with suppress(ContentError):
        reader = decompress(io.BytesIO(raw), kind or "gzip", limit=8 * _LARGEST)
        for _, content in read_tar(reader):
            if content is not None:
                content.read(_LARGEST)


def cache(raw: bytes) -> None:
    """A cache document: what is read is written, and read as the same."""
    with suppress(ContentError):
        document = CacheDocument.parse(raw)
        dumped = document.dump()
        assert CacheDocument.parse(dumped).dump() == dumped
        list(document.find(CacheKey("sha256:" + "0" * 64)))
        document.merge(CacheDocument.parse(dumped))


_MESSAGES = (StatusResponse, Packet, FrontendResult, SolveRequest, ReadResponse)


def protobuf(raw: bytes) -> None:
    """A message of BuildKit: what was read is written, and read as the same."""
    for cls in _MESSAGES:
        with suppress(MalformedMessage):
            message = decode(cls, raw)
            assert decode(cls, encode(message)) == message


class _Said:
    """A pipe on which all has been said."""

    def __init__(self, raw: bytes) -> None:
        self._rest = io.BytesIO(raw)

    def read(self, size: int) -> bytes:
        return self._rest.read(size)

    def write(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        pass


def http2(raw: bytes) -> None:
    """What a server sends to a call: the call ends, and whatever goes wrong is its error."""
    for head in (b"", _PREFACE):
        with TaskGroup() as group:
            connection = Connection(_Said(head + raw), group, {}, server=False)
            call = connection.call("/a.B/C", {})
            connection.read()
            with suppress(RpcError, MalformedMessage):
                while call.receive() is not None:
                    pass


class _Sent:
    """A socket whose other end has sent all, and closed."""

    def __init__(self, raw: bytes) -> None:
        self._rest = io.BytesIO(raw)

    def recv_into(self, buffer: memoryview) -> int:
        return self._rest.readinto(buffer)

    def gettimeout(self) -> None:
        return None


def response(raw: bytes) -> None:
    """A response of HTTP/1.1: read in parts, it is what it is as a whole, or as malformed."""
    for method in ("GET", "HEAD"):
        assert _body(raw, method, -1) == _body(raw, method, 3)


def _body(raw: bytes, method: str, size: int) -> tuple[int, bytes] | None:
    data = bytearray()
    try:
        found = ReceivedResponse(cast(socket.socket, _Sent(raw)), method)
        while part := found.read(size):
            data += part
    except MalformedResponse:
        return None
    assert found.length == 0 and len(data) <= len(raw)
    return found.status, bytes(data)


TARGETS: dict[str, Callable[[bytes], None]] = {
    one.__name__: one
    for one in (parser, words, ignore, tar, archive, cache, protobuf, http2, response)
}
