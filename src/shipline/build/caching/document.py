"""BuildKit's cache configuration: records of work, linked to their inputs, and their layers.

A record is named by a digest of its operation; each of its inputs is a list of alternatives, any of
which stands for that input, as links to other records. Only some records have a result: layers,
bottom first. `CacheKey` is the same for work that a build is about to do; a document is searched
with it, and extended by it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from shipline.build.cache import LayerResult
from shipline.errors import ContentError
from shipline.layer import ANNOTATIONS, Layer
from shipline.oci import Descriptor, Digest, from_bytes, media, to_bytes
from shipline.values import replace

LIMIT = 1 << 20
"""Bytes of a document; BuildKit reads no bigger one."""

_HEAVIEST = 400_000  # objects and lists
_LAYERS = 500  # of one result, as many as overlayfs can stack
_ALL_LAYERS = 500_000  # of all results
_SMALLEST_ROW = 200  # bytes of a layer: two digests, a media type, a size, and their names
_NEVER = "0001-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True, eq=False)
class CacheKey:
    """A record's digest, and for each input the alternatives: a selector, empty for none, and the
    key of what is selected from. Equal where `identity` is.
    """

    digest: str
    inputs: tuple[tuple[tuple[str, CacheKey], ...], ...] = field(default=(), repr=False)
    identity: str = field(init=False, default="")

    def __post_init__(self) -> None:
        linked = ((f"{one}{key.identity}" for one, key in links) for links in self.inputs)
        text = "\n".join([self.digest, *(",".join(sorted(links)) for links in linked)])
        object.__setattr__(self, "identity", hashlib.sha256(text.encode()).hexdigest())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CacheKey) and other.identity == self.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    def closure(self) -> Iterator[CacheKey]:
        """The keys that this one is made of and itself, inputs first, each once."""
        seen: set[str] = set()
        waiting = [(self, False)]
        while waiting:
            key, ready = waiting.pop()
            if ready:
                yield key
            elif key.identity not in seen:
                seen.add(key.identity)
                waiting.append((key, True))
                waiting += [(one, False) for links in key.inputs for _, one in links]


class CachedResult(Struct, frozen=True):
    """The layers of a root filesystem, bottom first, and when they were complete (RFC 3339)."""

    layers: tuple[LayerResult, ...]
    created: str

    @property
    def age(self) -> tuple[float, tuple[str, ...]]:
        """Sorts by time; results of one time have one order, too."""
        return instant(self.created), tuple(str(one.layer.descriptor.digest) for one in self.layers)


_Link = tuple[str, int]


class _Record(Struct):
    digest: str
    inputs: tuple[frozenset[_Link], ...]
    result: CachedResult | None = None


class CacheDocument:
    """A cache document that is being searched or written; not safe to change from two threads."""

    def __init__(self) -> None:
        self._records: list[_Record] = []
        self._by_digest: dict[str, list[int]] = {}
        self._numbers: dict[tuple[str, tuple[frozenset[_Link], ...]], int] = {}
        self._found: dict[CacheKey, tuple[int, ...]] = {}

    @classmethod
    def parse(cls, raw: bytes) -> CacheDocument:
        """The records of a document that stands alone (see `content.CacheStore`).

        A result is left out where one of its layers is not described or is not a layer. Raises
        ContentError for what is not a cache document: links that lead nowhere or in circles.
        """
        document = from_bytes(raw, heaviest=_HEAVIEST)
        layers = _Layers(_list(document.get("layers")))
        records = [_object(one) for one in _list(document.get("records"))]
        inputs = [_inputs(one, len(records)) for one in records]
        found, numbers = cls(), dict[int, int]()
        for number in _ordered(inputs):
            one = records[number]
            linked = tuple(
                frozenset((selector, numbers[link]) for selector, link in links)
                for links in inputs[number]
            )
            numbers[number] = found._put(_text(one.get("digest")), linked, layers.result(one))
        return found

    def find(self, key: CacheKey) -> Iterator[CachedResult]:
        """The results for `key`, the newest first."""
        for one in key.closure():
            if one not in self._found:
                self._found[one] = tuple(
                    number
                    for number in self._by_digest.get(one.digest, ())
                    if self._fits(self._records[number], one)
                )
        results = (self._records[number].result for number in self._found[key])
        yield from sorted(
            (one for one in results if one is not None), key=lambda one: one.age, reverse=True
        )

    def _fits(self, record: _Record, key: CacheKey) -> bool:
        """Whether every input has an alternative in common."""
        return len(record.inputs) == len(key.inputs) and all(
            any(
                (selector, number) in known
                for selector, one in links
                for number in self._found[one]
            )
            for known, links in zip(record.inputs, key.inputs, strict=True)
        )

    def add(self, key: CacheKey, result: CachedResult | None = None) -> None:
        """Add the records of `key`; `result` replaces an older one."""
        numbers: dict[CacheKey, int] = {}
        for one in key.closure():
            linked = tuple(
                frozenset((selector, numbers[below]) for selector, below in links)
                for links in one.inputs
            )
            numbers[one] = self._put(one.digest, linked, result if one == key else None)

    def merge(self, other: CacheDocument) -> None:
        """Add all records of `other`; of two results the newer one stays."""
        numbers: list[int] = []  # a record comes after its inputs
        for record in other._records:
            linked = tuple(
                frozenset((selector, numbers[link]) for selector, link in links)
                for links in record.inputs
            )
            numbers.append(self._put(record.digest, linked, record.result))

    def _put(
        self, digest: str, inputs: tuple[frozenset[_Link], ...], result: CachedResult | None
    ) -> int:
        """The number of the record with this digest and exactly these inputs."""
        self._found.clear()
        number = self._numbers.setdefault((digest, inputs), len(self._records))
        if number == len(self._records):
            self._records.append(_Record(digest, inputs, result))
            self._by_digest.setdefault(digest, []).append(number)
        record = self._records[number]
        if result and (record.result is None or record.result.age < result.age):
            record.result = result
        return number

    def results(self) -> Iterator[CachedResult]:
        """Every result."""
        return (one.result for one in self._records if one.result is not None)

    def dump(self, limit: int = LIMIT) -> bytes:
        """The document that stands alone, the same bytes for the same records; records that no
        result needs are left out, and the oldest results where it would exceed `limit`.
        """
        numbers = [number for number, one in enumerate(self._records) if one.result is not None]
        numbers.sort(key=self._age, reverse=True)
        numbers = self._fitting(numbers, limit)
        raw = self._dumped(numbers)
        while len(raw) > limit and numbers:
            numbers = numbers[: min(len(numbers) - 1, len(numbers) * limit // len(raw))]
            raw = self._dumped(numbers)
        return raw

    def _fitting(self, numbers: list[int], limit: int) -> list[int]:
        """The first of `numbers`, without those that cannot fit for their layers alone."""
        layers = _LayerTable()
        for place, number in enumerate(numbers):
            result = self._records[number].result
            assert result is not None
            layers.add(result)
            if len(layers) * _SMALLEST_ROW > limit:
                return numbers[:place]
        return numbers

    def _age(self, number: int) -> tuple[tuple[float, tuple[str, ...]], str]:
        result = self._records[number].result
        assert result is not None
        return result.age, self._records[number].digest

    def _dumped(self, kept: Iterable[int]) -> bytes:
        wanted, kept = set[int](), set(kept)
        waiting = list(kept)
        while waiting:
            if (number := waiting.pop()) not in wanted:
                wanted.add(number)
                waiting += [one for links in self._records[number].inputs for _, one in links]
        layers = _LayerTable()
        rows = []
        names: dict[
            int, str
        ] = {}  # a record's name covers its inputs, so that the order is certain
        for number in sorted(wanted):  # inputs come first
            record = self._records[number]
            linked = (
                sorted(f"{one}{names[link]}" for one, link in links) for links in record.inputs
            )
            text = "\n".join([record.digest, *map(",".join, linked)])
            names[number] = hashlib.sha256(text.encode()).hexdigest()
            if number in kept and record.result is not None:
                layers.add(record.result)
            rows.append((record.digest, names[number], number))
        order = {number: place for place, (_, _, number) in enumerate(sorted(rows))}
        records = [self._row(number, order, layers, kept) for _, _, number in sorted(rows)]
        return to_bytes({"layers": layers.rows(), "records": records})

    def _row(
        self, number: int, order: Mapping[int, int], layers: _LayerTable, kept: set[int]
    ) -> dict[str, Any]:
        record = self._records[number]
        row: dict[str, Any] = {"digest": record.digest}
        if number in kept and record.result is not None:
            created = record.result.created or _NEVER
            row["layers"] = [{"layer": layers.top(record.result), "createdAt": created}]
        if record.inputs:
            row["inputs"] = [
                [
                    {"selector": selector, "link": place} if selector else {"link": place}
                    for place, selector in sorted((order[link], one) for one, link in links)
                ]
                for links in record.inputs
            ]
        return row


class _Layers:
    """The layers of a parsed document."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = [_object(one) for one in rows]
        self._known: dict[int, LayerResult | None] = {}
        self._chains: dict[int, tuple[LayerResult, ...]] = {}
        self._left = _ALL_LAYERS

    def result(self, record: Mapping[str, Any]) -> CachedResult | None:
        """The newest usable result of a record."""
        found = []
        for one in map(_object, _list(record.get("layers"))):
            top = one.get("layer", 0)
            found.append(self._result(self._chain(_number(top, len(self._rows))), one))
        for one in map(_object, _list(record.get("chains"))):
            numbers = [_number(each, len(self._rows)) for each in _list(one.get("layers"))]
            found.append(self._result(self._usable(numbers), one))
        return max((one for one in found if one), key=lambda one: one.age, default=None)

    def _chain(self, top: int) -> tuple[LayerResult, ...]:
        """The layers up to `top`; none where one of them is unusable."""
        if top not in self._chains:
            numbers = []
            number = top
            while number != -1:
                numbers.append(number)
                if len(numbers) > _LAYERS:
                    text = f"a result has more than {_LAYERS} layers, or a loop of them"
                    raise ContentError(text, code="cache-damaged")
                parent = self._rows[number].get("parent", 0)
                number = -1 if parent == -1 else _number(parent, len(self._rows))
            self._chains[top] = self._usable(numbers[::-1])
        return self._chains[top]

    def _usable(self, numbers: list[int]) -> tuple[LayerResult, ...]:
        layers = [self._layer(number) for number in numbers[: _LAYERS + 1]]
        if len(layers) > _LAYERS or None in layers:
            return ()
        return tuple(one for one in layers if one)

    def _result(
        self, layers: tuple[LayerResult, ...], row: Mapping[str, Any]
    ) -> CachedResult | None:
        self._left -= len(layers)
        if self._left < 0:
            raise ContentError(
                f"the results have more than {_ALL_LAYERS} layers", code="cache-damaged"
            )
        return CachedResult(layers, _time(row.get("createdAt"))) if layers else None

    def _layer(self, number: int) -> LayerResult | None:
        if number not in self._known:
            try:
                self._known[number] = _described(self._rows[number])
            except ContentError:
                self._known[number] = None
        return self._known[number]


def _described(row: Mapping[str, Any]) -> LayerResult | None:
    notes = _object(row.get("annotations") or {})
    descriptor = Descriptor.from_json(
        {"mediaType": notes.get("mediaType"), "digest": row.get("blob"), "size": notes.get("size")}
    )
    if media.compression(descriptor.media_type) is None:
        return None
    own = {key: _text(notes[key]) for key in ANNOTATIONS if key in notes}
    descriptor = replace(descriptor, annotations=own)
    diff_id = Digest.parse(_text(notes.get("diffID")))
    return LayerResult(Layer(descriptor, diff_id), _time(notes.get("createdAt")))


class _LayerTable:
    """The layers of a document that is being written, each once on each parent."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, Digest], int] = {}  # by the parent's number, -1 for none
        self._layers: list[LayerResult] = []
        self._names: list[bytes] = []  # of a layer and those below, so that the order is certain
        self._places: list[int] = []

    def __len__(self) -> int:
        return len(self._layers)

    def add(self, result: CachedResult) -> None:
        number = -1
        for one in result.layers:
            digest = one.layer.descriptor.digest
            below = self._names[number] if number >= 0 else b""
            number = self._numbers.setdefault((number, digest), len(self._layers))
            if number == len(self._layers):
                self._layers.append(one)
                self._names.append(hashlib.sha256(below + str(digest).encode()).digest())
            elif instant(self._layers[number].created) < instant(one.created):
                self._layers[number] = one

    def rows(self) -> list[dict[str, Any]]:
        parents = {number: parent for (parent, _), number in self._numbers.items()}
        ordered = sorted(parents, key=lambda number: (self._digest(number), self._names[number]))
        self._places = [0] * len(ordered)
        for place, number in enumerate(ordered):
            self._places[number] = place
        return [self._row(number, parents[number]) for number in ordered]

    def top(self, result: CachedResult) -> int:
        if not self._places:
            self.rows()
        number = -1
        for one in result.layers:
            number = self._numbers[number, one.layer.descriptor.digest]
        return self._places[number]

    def _digest(self, number: int) -> str:
        return str(self._layers[number].layer.descriptor.digest)

    def _row(self, number: int, below: int) -> dict[str, Any]:
        found = self._layers[number]
        descriptor = found.layer.descriptor
        notes = {
            "mediaType": descriptor.media_type,
            "diffID": str(found.layer.diff_id),
            "size": descriptor.size,
            **{key: text for key, text in descriptor.annotations.items() if key in ANNOTATIONS},
        }
        if found.created:
            notes["createdAt"] = found.created
        parent = self._places[below] if below >= 0 else -1
        row: dict[str, Any] = {"blob": str(descriptor.digest)}
        return row | ({"parent": parent} if parent else {}) | {"annotations": notes}


def instant(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time; the beginning of time for any other text."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return float("-inf")
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _time(value: object) -> str:
    """A time as RFC 3339 text; empty for none, and for what is not a time."""
    text = value if isinstance(value, str) else ""
    return text if text != _NEVER and instant(text) > 0 else ""


def _ordered(inputs: list[tuple[tuple[_Link, ...], ...]]) -> Iterator[int]:
    """The numbers of all records, each after its inputs. Raises ContentError for a loop."""
    state: dict[int, bool] = {}  # False while the inputs are visited
    for start in range(len(inputs)):
        waiting = [(start, False)]
        while waiting:
            number, ready = waiting.pop()
            if ready:
                state[number] = True
                yield number
            elif number not in state:
                state[number] = False
                waiting.append((number, True))
                for _, link in (one for links in inputs[number] for one in links):
                    if state.get(link) is False:
                        raise ContentError(
                            "the records of the cache form a loop", code="cache-damaged"
                        )
                    waiting.append((link, False))


def _inputs(record: Mapping[str, Any], count: int) -> tuple[tuple[_Link, ...], ...]:
    found = []
    for links in map(_list, _list(record.get("inputs"))):
        if not links:
            raise ContentError("an input of a record has no links", code="cache-damaged")
        found.append(
            tuple(
                (_text(one.get("selector") or ""), _number(one.get("link", 0), count))
                for one in map(_object, links)
            )
        )
    return tuple(found)


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ContentError(
            f"not an object in a cache document: {value!r:.80}", code="cache-damaged"
        )
    return value


def _list(value: object) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ContentError(f"not a list in a cache document: {value!r:.80}", code="cache-damaged")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ContentError(f"not a string in a cache document: {value!r:.80}", code="cache-damaged")
    return value


def _number(value: object, count: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < count:
        raise ContentError(
            f"a link in a cache document has no target: {value!r:.80}", code="cache-damaged"
        )
    return value
