"""XML and text read as streams, in bounded memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import BinaryIO, NamedTuple

from shipline.gates.reports.report import ReportError

_CHUNK = 64 << 10  # bytes
_TOKEN_LIMIT = 16 << 20  # bytes of one tag
_DEPTH_LIMIT = 500
_TEXT_LIMIT = 64 << 10  # characters kept of an element


class Start(NamedTuple):
    """The start of an element; names have no prefix."""

    name: str
    attributes: Mapping[str, str]


class End(NamedTuple):
    """The end of an element; `text` is its content, for requested names."""

    name: str
    text: str = ""


def read_xml(
    source: BinaryIO, *, roots: Collection[str] = (), texts: Collection[str] = ()
) -> Iterator[Start | End]:
    """The elements of a document. It may name a document type, but not declare entities.

    Raises ReportError, also for a truncated document, and for a root element that is not one of
    `roots`, if given.
    """
    handler = _Handler(roots, texts)
    while True:
        data = source.read(_CHUNK)
        handler.feed(data)
        yield from handler.events
        handler.events.clear()
        if not data:
            return


class _Handler:
    def __init__(self, roots: Collection[str], texts: Collection[str]) -> None:
        from xml.parsers import expat

        self.events: list[Start | End] = []
        self._failure = expat.ExpatError
        self._roots = roots
        self._texts = texts
        self._text: list[str] | None = None
        self._depth = 0
        self._fed = 0
        parser = self._parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.EntityDeclHandler = self._entity
        parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)

    def feed(self, data: bytes) -> None:
        self._fed += len(data)
        try:
            self._parser.Parse(data, not data)
        except self._failure as error:
            raise ReportError(f"not valid XML: {error}") from None
        if self._fed - self._parser.CurrentByteIndex > _TOKEN_LIMIT:
            raise ReportError(f"not valid XML: a tag of more than {_TOKEN_LIMIT >> 20} MiB")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _DEPTH_LIMIT:
            raise ReportError(f"not valid XML: nested deeper than {_DEPTH_LIMIT} levels")
        name = name.rpartition(":")[2]
        if self._depth == 1 and self._roots and name not in self._roots:
            raise ReportError(f"the document is <{name[:40]}>, not <{min(self._roots)}>")
        if name in self._texts:
            self._text = []
            self._parser.CharacterDataHandler = self._characters
        self.events.append(Start(name, attributes))

    def _end(self, name: str) -> None:
        self._depth -= 1
        text = "".join(self._text or ())
        self._text = None
        self._parser.CharacterDataHandler = None
        self.events.append(End(name.rpartition(":")[2], text))

    def _characters(self, data: str) -> None:
        if self._text is not None and sum(map(len, self._text)) < _TEXT_LIMIT:
            self._text.append(data)

    def _entity(self, name: str, *_: object) -> None:
        raise ReportError(f"the document declares the entity {name[:40]!r}: refused")


_LINE_LIMIT = 64 << 10  # bytes


def read_lines(source: BinaryIO) -> Iterator[str]:
    """Lines, stripped; empty ones are skipped.

    Raises ReportError for a line of more than 64 KiB, UnicodeDecodeError.
    """
    while data := source.readline(_LINE_LIMIT + 1):
        if len(data) > _LINE_LIMIT:
            raise ReportError(f"a line of more than {_LINE_LIMIT >> 10} KiB")
        if line := data.decode("utf-8-sig").strip():
            yield line
