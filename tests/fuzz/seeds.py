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

import zstandard

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


SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "parser": _dockerfiles,
    "words": lambda: (one.encode() for one in _WORDS),
    "ignore": lambda: (one.encode() for one in _IGNORE),
    "tar": lambda: (bytes([kind]) + one for one in _archives() for kind in range(3)),
    "archive": _compressed,
    "cache": lambda: iter([json.dumps(_CACHE).encode()]),
}
