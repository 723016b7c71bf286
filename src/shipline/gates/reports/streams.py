"""JSON, XML and lines read as streams, in bounded memory.

reader = JsonReader(stream)
for key in reader.members():
if key == "results":
for _ in reader.elements():
use(reader.value())
reader.finish()

A member or element that the loop does not read is skipped: only its end is looked for. In what is
read, NaN and infinite numbers, which RFC 8259 does not know, are errors, and so is a key that an
object has twice: which of its values counts is not defined (section 4).
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import BinaryIO, NamedTuple, NoReturn

from shipline.content import Reader
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
    handler = _XmlEvents(roots, texts)
    while True:
        data = source.read(_CHUNK)
        handler.feed(data)
        yield from handler.events
        handler.events.clear()
        if not data:
            return


class _XmlEvents:
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


_JSON_CHUNK = 256 << 10  # bytes
_VALUE_LIMIT = 8 << 20  # characters of one value that is taken whole
_SPACE = re.compile(r"[ \t\n\r]*+")
_STRUCTURE = re.compile(r'[\[\]{}"]')
_STRING_REST = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_NEAR_THE_END = 16  # characters: an error here may only mean that the text goes on
_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _refuse_constant(name: str) -> NoReturn:
    raise ReportError(f"{name} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ReportError(f"{text[:40]} is too large a number")
    return number


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        keys = [key for key, _ in pairs]
        _refuse_twice(next(key for key in keys if keys.count(key) > 1))
    return members


def _refuse_twice(key: str) -> NoReturn:
    raise ReportError(f"an object has the key {key[:40]!r} twice")


_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique
)


class JsonReader:
    """A position in a JSON text. Raises ReportError, UnicodeDecodeError or RecursionError."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        first = source.read(_JSON_CHUNK)
        encoding = next((name for bom, name in _ENCODINGS if first.startswith(bom)), "utf-8")
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._buffer = self._decoder.decode(first)
        self._at = 0
        self._dropped = 0
        self._ended = not first

    def kind(self) -> str:
        """The first character of the next value."""
        return self._peek()

    def members(self) -> Iterator[str]:
        """The keys of the object that comes next; its value is read between two of them."""
        self._expect("{")
        seen: set[str] = set()
        while self._peek() != "}":
            if seen:
                self._expect(",")
            key = self.value()
            if not isinstance(key, str):
                self._fail("the key of an object is not text")
            if key in seen:
                _refuse_twice(key)
            seen.add(key)
            self._expect(":")
            self._peek()
            mark = self._place
            yield key
            if self._place == mark:
                self.skip()
        self._expect("}")

    def elements(self) -> Iterator[int]:
        """The places in the array that comes next; its element is read between two of them."""
        self._expect("[")
        count = 0
        while self._peek() != "]":
            if count:
                self._expect(",")
            self._peek()
            mark = self._place
            yield count
            if self._place == mark:
                self.skip()
            count += 1
        self._expect("]")

    def documents(self) -> Iterator[int]:
        """The places of documents that follow one another (JSON Lines); each is read between two
        of them.
        """
        count = 0
        while self._peek(required=False):
            mark = self._place
            yield count
            if self._place == mark:
                self.skip()
            count += 1

    def value(self) -> object:
        """The next value, whole."""
        self._peek()
        while True:
            try:
                decoded, end = _DECODER.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if self._ended or self._final(error):
                    self._fail(error.msg)
            else:
                if self._ended or not self._may_go_on(decoded, end):
                    self._at = end
                    return decoded
            if len(self._buffer) - self._at > _VALUE_LIMIT:
                self._fail(f"a value of more than {_VALUE_LIMIT >> 20} MiB")
            self._fill(len(self._buffer) - self._at)

    def skip(self) -> None:
        """Pass over the next value without keeping it."""
        start = self._peek()
        if start in "{[":
            self._skip_nested()
        elif start == '"':
            self._at += 1
            self._skip_string()
        else:
            self.value()

    def finish(self) -> None:
        """Raises ReportError where something follows."""
        if self._peek(required=False):
            self._fail("something follows the end of the document")

    @property
    def _place(self) -> int:
        return self._dropped + self._at

    def _skip_nested(self) -> None:
        depth = 0
        while True:
            mark = _STRUCTURE.search(self._buffer, self._at)
            if mark is None:
                self._at = len(self._buffer)
                self._more()
                continue
            self._at = mark.end()
            if mark[0] == '"':
                self._skip_string()
            else:
                depth += 1 if mark[0] in "[{" else -1
            if depth == 0:
                return
            if depth > _DEPTH_LIMIT:
                self._fail(f"nested deeper than {_DEPTH_LIMIT} levels")

    def _skip_string(self) -> None:
        """From behind the opening quote to behind the closing one."""
        while True:
            rest = _STRING_REST.match(self._buffer, self._at)
            self._at = rest.end() if rest else self._at
            if self._buffer[self._at : self._at + 1] == '"':
                self._at += 1
                return
            self._more()

    def _peek(self, *, required: bool = True) -> str:
        while True:
            space = _SPACE.match(self._buffer, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if self._ended:
                return self._fail("the document ends too early") if required else ""
            self._fill()

    def _expect(self, character: str) -> None:
        if self._peek() != character:
            self._fail(f"expected {character!r}")
        self._at += 1

    def _more(self) -> None:
        if self._ended:
            self._fail("the document ends too early")
        self._fill()

    def _fill(self, size: int = 0) -> None:
        data = self._source.read(max(size, _JSON_CHUNK))
        self._ended = not data
        self._dropped += self._at
        self._buffer = self._buffer[self._at :] + self._decoder.decode(data, final=self._ended)
        self._at = 0

    def _may_go_on(self, decoded: object, end: int) -> bool:
        """Whether it is a number whose last digits, fraction or exponent are still to come."""
        rest = self._buffer[end : end + _NEAR_THE_END]
        return isinstance(decoded, int | float) and not rest.strip("0123456789.eE+-")

    def _final(self, error: json.JSONDecodeError) -> bool:
        """Whether more text could not complete it."""
        unfinished = error.msg.startswith("Unterminated string")
        return not unfinished and error.pos < len(self._buffer) - _NEAR_THE_END

    def _fail(self, reason: str) -> NoReturn:
        raise ReportError(f"not valid JSON near character {self._place}: {reason}")
