"""A YAML file as a tree of nodes with positions, and problems at these positions.

The tree is built from parser events without recursion, so that neither depth nor aliases can
exhaust memory. Scalars keep their text: as a string, `1.20` stays `1.20`. Their kind follows the
core schema of YAML 1.2.2, section 10.3.2: `yes` and `on` are strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from shipline.errors import ConfigError


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A position in a file; both count from 1."""

    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True, order=True)
class ConfigProblem:
    """One problem: position, dotted key (empty for the file) and message."""

    file: str
    mark: Mark
    key: str
    message: str

    def __str__(self) -> str:
        position = f"{self.file}:{self.mark.line}:{self.mark.column}"
        return ": ".join(filter(None, (position, self.key, self.message)))


class InvalidConfig(ConfigError):
    """A configuration file with problems, in the order of the file."""

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
_MAX_DEPTH = 32  # nested collections
_MAX_NODES = 50_000  # nodes, counting each alias

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
    """A scalar; `plain` if it is not quoted."""

    mark: Mark
    text: str
    plain: bool = True

    @property
    def kind(self) -> Kind:
        if not self.plain:
            return "str"
        return next((kind for kind, pattern in _KINDS if pattern.match(self.text)), "str")


@dataclass(frozen=True, slots=True)
class SequenceNode:
    """A sequence of nodes."""

    mark: Mark
    items: tuple[Node, ...]
    weight: int = 1


@dataclass(frozen=True, slots=True)
class MappingNode:
    """A mapping with unique keys."""

    mark: Mark
    entries: tuple[tuple[Scalar, Node], ...]
    weight: int = 1


Node = Scalar | SequenceNode | MappingNode


@dataclass(frozen=True, slots=True)
class Document:
    """A whole file, with problems that do not prevent reading the rest, such as duplicate keys."""

    file: str
    root: Node
    problems: tuple[ConfigProblem, ...] = ()


def read_document(content: bytes, file: str) -> Document:
    """The single document of a file; an empty file is an empty mapping.

    Raises InvalidConfig for invalid YAML, and beyond the limits of size and depth.
    """
    if len(content) > LIMIT:
        raise _invalid(file, Mark(), f"the file is larger than {LIMIT >> 10} KiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _invalid(file, Mark(line), "the file is not UTF-8 text") from None
    builder = _Builder(file)
    for event in _events(text, file):
        builder.take(event)
    return Document(file, builder.root or MappingNode(Mark(), ()), tuple(builder.problems))


def _events(text: str, file: str) -> Iterator[Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _invalid(file, _mark(mark), str(error.problem or error.context)) from None
    except (YAMLError, ValueError) as error:
        raise _invalid(file, Mark(), f"not valid YAML: {str(error).splitlines()[0]}") from None


def _mark(mark: Any) -> Mark:
    return Mark() if mark is None else Mark(mark.line + 1, mark.column + 1)


def _invalid(file: str, mark: Mark, message: str) -> InvalidConfig:
    return InvalidConfig([ConfigProblem(file, mark, "", message)])


@dataclass(slots=True)
class _OpenCollection:
    """A collection that is still open."""

    mark: Mark
    anchor: str | None
    mapping: bool
    nodes: list[Node] = field(default_factory=list)


class _Builder:
    """Builds the tree from events; `root` is set after the last."""

    def __init__(self, file: str) -> None:
        self.root: Node | None = None
        self.problems: list[ConfigProblem] = []
        self._file = file
        self._open: list[_OpenCollection] = []
        self._anchors: dict[str, Node] = {}

    def take(self, event: Any) -> None:
        """Raises InvalidConfig if the rest of the file cannot be read."""
        kind, mark = type(event).__name__, _mark(event.start_mark)
        if tag := getattr(event, "tag", None):
            raise _invalid(self._file, mark, f"the tag {tag} is not supported")
        if kind == "ScalarEvent":
            self._add(Scalar(mark, event.value, plain=not event.style), event.anchor)
        elif kind == "AliasEvent":
            self._add(self._aliased(event.anchor, mark), None)
        elif kind in ("SequenceStartEvent", "MappingStartEvent"):
            if len(self._open) >= _MAX_DEPTH:
                raise _invalid(self._file, mark, f"more than {_MAX_DEPTH} levels deep")
            self._open.append(_OpenCollection(mark, event.anchor, kind.startswith("Mapping")))
        elif kind in ("SequenceEndEvent", "MappingEndEvent"):
            collection = self._open.pop()
            self._add(self._close_collection(collection), collection.anchor)
        elif kind == "DocumentStartEvent" and self.root is not None:
            raise _invalid(self._file, mark, "a file has only one document")

    def _aliased(self, anchor: str, mark: Mark) -> Node:
        if anchor not in self._anchors:
            inside = any(collection.anchor == anchor for collection in self._open)
            reason = "refers to its own parent" if inside else "has no anchor above"
            raise _invalid(self._file, mark, f"the alias *{anchor} {reason}")
        return self._anchors[anchor]

    def _add(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        if _weight(node) > _MAX_NODES:
            raise _invalid(self._file, node.mark, f"more than {_MAX_NODES} values, aliases counted")
        if self._open:
            self._open[-1].nodes.append(node)
        else:
            self.root = node

    def _close_collection(self, collection: _OpenCollection) -> Node:
        weight = 1 + sum(map(_weight, collection.nodes))
        if not collection.mapping:
            return SequenceNode(collection.mark, tuple(collection.nodes), weight)
        entries: dict[str, tuple[Scalar, Node]] = {}
        merged_entries: list[tuple[Scalar, Node]] = []
        for key, value in zip(collection.nodes[::2], collection.nodes[1::2], strict=True):
            if not isinstance(key, Scalar):
                self._problem(key.mark, "a key must be a string")
            elif key.plain and key.text == "<<":
                merged_entries += self._merged(value)
            elif key.text in entries:
                first = entries[key.text][0].mark.line
                self._problem(key.mark, f"{key.text!r} is a duplicate of line {first}")
            else:
                entries[key.text] = key, value
        for key, value in merged_entries:
            entries.setdefault(key.text, (key, value))
        return MappingNode(collection.mark, tuple(entries.values()), weight)

    def _merged(self, value: Node) -> Iterator[tuple[Scalar, Node]]:
        """The entries that `<<` merges (yaml.org/type/merge), of a mapping or a list of them."""
        for mapping in value.items if isinstance(value, SequenceNode) else (value,):
            if isinstance(mapping, MappingNode):
                yield from mapping.entries
            else:
                self._problem(mapping.mark, "<< takes a mapping, or a list of them")

    def _problem(self, mark: Mark, message: str) -> None:
        self.problems.append(ConfigProblem(self._file, mark, "", message))


def _weight(node: Node) -> int:
    return 1 if isinstance(node, Scalar) else node.weight
