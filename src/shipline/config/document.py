"""A YAML file as a tree of nodes that know their place, and the problems found at them.

The tree is built from parser events without recursion, so that neither depth nor aliases can
exhaust anything. Scalars keep their text: `1.20` is still that where a text is wanted. Their kind
is that of the core schema of YAML 1.2.2, section 10.3.2: `yes` and `on` are texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from shipline.errors import ConfigError


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a file; both count from 1."""

    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True, order=True)
class ConfigProblem:
    """One thing that is wrong: where, with which key (dotted, empty for the file), and why."""

    file: str
    mark: Mark
    key: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.mark.line}:{self.mark.column}"
        return ": ".join(filter(None, (place, self.key, self.message)))


class InvalidConfig(ConfigError):
    """A configuration file with at least one problem; `problems` are in the order of the file."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        first = self.problems[0]
        if len(self.problems) == 1:
            super().__init__(str(first))
            return
        super().__init__(f"{first.file} has {len(self.problems)} errors")
        for problem in self.problems:
            self.add_note(str(problem))


LIMIT = 512 << 10  # bytes of a file
_DEEPEST = 32  # collections inside each other
_MOST = 50_000  # nodes, those behind aliases counted each time

Kind = Literal["null", "bool", "int", "float", "str"]
_KINDS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("null", re.compile(r"(?:null|Null|NULL|~|)\Z")),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
    ("int", re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")),
    (
        "float",
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text; `plain` where nothing quotes it."""

    mark: Mark
    text: str
    plain: bool = True

    @property
    def kind(self) -> Kind:
        if not self.plain:
            return "str"
        return next((kind for kind, form in _KINDS if form.match(self.text)), "str")


@dataclass(frozen=True, slots=True)
class Listing:
    """A sequence of nodes."""

    mark: Mark
    items: tuple[Node, ...]
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping; no key stands twice."""

    mark: Mark
    entries: tuple[tuple[Scalar, Node], ...]
    weight: int = 1


Node = Scalar | Listing | Table


@dataclass(frozen=True, slots=True)
class Document:
    """A whole file, with problems that do not hinder reading the rest, such as duplicate keys."""

    file: str
    root: Node
    problems: tuple[ConfigProblem, ...] = ()


def read_document(content: bytes, file: str) -> Document:
    """The one document of a file; an empty file is an empty mapping.

    Raises InvalidConfig for what is no YAML, or more than anyone writes.
    """
    if len(content) > LIMIT:
        raise _invalid(file, Mark(), f"the file is larger than {LIMIT >> 10} KiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _invalid(file, Mark(line), "this is not UTF-8 text") from None
    builder = _Builder(file)
    for event in _events(text, file):
        builder.take(event)
    return Document(file, builder.root or Table(Mark(), ()), tuple(builder.problems))


def _events(text: str, file: str) -> Iterator[Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _invalid(file, _mark(mark), str(error.problem or error.context)) from None
    except (YAMLError, ValueError) as error:
        raise _invalid(file, Mark(), f"this is not YAML: {str(error).splitlines()[0]}") from None


def _mark(mark: Any) -> Mark:
    return Mark() if mark is None else Mark(mark.line + 1, mark.column + 1)


def _invalid(file: str, mark: Mark, message: str) -> InvalidConfig:
    return InvalidConfig([ConfigProblem(file, mark, "", message)])


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come."""

    mark: Mark
    anchor: str | None
    mapping: bool
    nodes: list[Node] = field(default_factory=list)


class _Builder:
    """Takes events, and has a root when the last has come."""

    def __init__(self, file: str) -> None:
        self.root: Node | None = None
        self.problems: list[ConfigProblem] = []
        self._file = file
        self._open: list[_Open] = []
        self._anchors: dict[str, Node] = {}

    def take(self, event: Any) -> None:
        """Raises InvalidConfig for what makes the rest of the file meaningless."""
        kind, mark = type(event).__name__, _mark(event.start_mark)
        if tag := getattr(event, "tag", None):
            raise _invalid(self._file, mark, f"the tag {tag} means nothing here")
        if kind == "ScalarEvent":
            self._add(Scalar(mark, event.value, plain=not event.style), event.anchor)
        elif kind == "AliasEvent":
            self._add(self._aliased(event.anchor, mark), None)
        elif kind in ("SequenceStartEvent", "MappingStartEvent"):
            if len(self._open) >= _DEEPEST:
                raise _invalid(self._file, mark, f"more than {_DEEPEST} levels deep")
            self._open.append(_Open(mark, event.anchor, kind.startswith("Mapping")))
        elif kind in ("SequenceEndEvent", "MappingEndEvent"):
            done = self._open.pop()
            self._add(self._closed(done), done.anchor)
        elif kind == "DocumentStartEvent" and self.root is not None:
            raise _invalid(self._file, mark, "a second document: one file is one configuration")

    def _aliased(self, anchor: str, mark: Mark) -> Node:
        if anchor not in self._anchors:
            inside = any(one.anchor == anchor for one in self._open)
            why = "refers to what it stands in" if inside else "has no anchor above"
            raise _invalid(self._file, mark, f"the alias *{anchor} {why}")
        return self._anchors[anchor]

    def _add(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        if _weight(node) > _MOST:
            raise _invalid(self._file, node.mark, f"more than {_MOST} values, aliases counted")
        if self._open:
            self._open[-1].nodes.append(node)
        else:
            self.root = node

    def _closed(self, done: _Open) -> Node:
        weight = 1 + sum(map(_weight, done.nodes))
        if not done.mapping:
            return Listing(done.mark, tuple(done.nodes), weight)
        found: dict[str, tuple[Scalar, Node]] = {}
        merged: list[tuple[Scalar, Node]] = []
        for key, value in zip(done.nodes[::2], done.nodes[1::2], strict=True):
            if not isinstance(key, Scalar):
                self._problem(key.mark, "a key must be a text")
            elif key.plain and key.text == "<<":
                merged += self._merged(value)
            elif key.text in found:
                first = found[key.text][0].mark.line
                self._problem(key.mark, f"{key.text!r} stands here already, in line {first}")
            else:
                found[key.text] = key, value
        for key, value in merged:
            found.setdefault(key.text, (key, value))
        return Table(done.mark, tuple(found.values()), weight)

    def _merged(self, value: Node) -> Iterator[tuple[Scalar, Node]]:
        """What `<<` brings in (yaml.org/type/merge): the entries of a mapping, or of several."""
        for one in value.items if isinstance(value, Listing) else (value,):
            if isinstance(one, Table):
                yield from one.entries
            else:
                self._problem(one.mark, "<< takes a mapping, or a list of them")

    def _problem(self, mark: Mark, message: str) -> None:
        self.problems.append(ConfigProblem(self._file, mark, "", message))


def _weight(node: Node) -> int:
    return 1 if isinstance(node, Scalar) else node.weight
