"""YAML files whose values are replaced in their text, so that nothing else of them changes.

A file is composed into nodes only to find where its values stand; the text between the marks of a
node is replaced, or a line is inserted below it. Comments, order, quotes, indentation, line ends
and the other documents stay. The result is parsed again, and must differ from the file in exactly
the intended values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from shipline.errors import ConfigError

KeyPath = tuple[str | int, ...]
"""The number of the document, then keys and indexes."""

_STRING, _INTEGER = "tag:yaml.org,2002:str", "tag:yaml.org,2002:int"
_LIMIT = 4 << 20  # bytes of a file
_MAX_DEPTH = 200
_MAX_VALUES = 200_000  # with those that aliases repeat
_EMPTY = re.compile(r":(?:[ \t]*(?:#[^\n]*)?\r?\n)*[ \t]*\Z")  # the colon before no value
_PROPERTIES = re.compile(r"(?:[&!]\S*\s+)*")  # an anchor or a tag, before the value itself
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@+=-]*(?::[A-Za-z0-9][A-Za-z0-9._/@+=-]*)*\Z")

_OTHER = re.compile(  # what some reader of YAML takes for a number, a time or a boolean
    r"(?:[0-9][0-9_]*(?:\.[0-9_]*)?(?:e[-+]?[0-9]+)?|0[xob][0-9a-f_]+|[0-9]+(?::[0-9]+)+(?:\.[0-9]*)?"
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*|true|false|yes|no|on|off|null|y|n)\Z",
    re.IGNORECASE,
)


class UnsuitableFile(ConfigError):
    """A file of the GitOps repository in which the image cannot be set."""

    code = "gitops-file"


@dataclass(frozen=True, slots=True)
class YamlValue:
    """A value in a file, with its node."""

    path: KeyPath
    node: Any

    def __str__(self) -> str:
        """The path as people write it, without the document."""
        keys = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in self.path[1:])
        return "".join(keys).removeprefix(".") or "the document"

    @property
    def text(self) -> str:
        """The text of a scalar, without quotes; empty for a collection."""
        return self.node.value if isinstance(self.node.value, str) else ""

    @property
    def line(self) -> int:
        return int(self.node.start_mark.line) + 1

    @property
    def is_mapping(self) -> bool:
        return bool(self.node.id == "mapping")

    @property
    def items(self) -> Iterator[YamlValue]:
        """Those of a sequence; none for others."""
        if self.node.id == "sequence":
            for index, item in enumerate(self.node.value):
                yield YamlValue((*self.path, index), item)

    @property
    def entries(self) -> Iterator[YamlValue]:
        """Those of a mapping, by their own keys alone: nothing is merged."""
        if self.is_mapping:
            for key, value in self.node.value:
                yield YamlValue((*self.path, str(key.value)), value)

    def get(self, key: str) -> YamlValue | None:
        return next((value for value in self.entries if value.path[-1] == key), None)

    def scalar(self, key: str) -> str:
        """The text of a scalar in a mapping, empty if there is none."""
        value = self.get(key)
        return value.text if value else ""

    def walk(self) -> Iterator[YamlValue]:
        """This value and all below it."""
        waiting = [self]
        while waiting:
            value = waiting.pop()
            yield value
            waiting += reversed([*value.entries, *value.items])


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A file with its documents; `path` is for messages. `shared` holds the ids of nodes that
    several places have through an anchor.
    """

    path: str
    text: str
    documents: tuple[YamlValue, ...]
    shared: frozenset[int] = field(repr=False)

    @classmethod
    def parse(cls, path: str, content: bytes) -> YamlFile:
        """Raises UnsuitableFile for what is not YAML, such as a template."""
        if len(content) > _LIMIT:
            raise UnsuitableFile(f"{path} is larger than {_LIMIT >> 20} MiB")
        try:
            text = content.decode()
        except UnicodeDecodeError:
            raise UnsuitableFile(f"{path} is not UTF-8 text") from None
        roots = _compose(path, text)
        documents = tuple(YamlValue((index,), root) for index, root in enumerate(roots))
        return cls(path, text, documents, _shared(path, roots))

    def replace(self, value: YamlValue, new: str | int) -> Edit:
        """The edit that makes a scalar a string or an integer. Raises UnsuitableFile for values
        that are no scalar on one line, that a template fills in, or that other places share.
        """
        node, where = value.node, f"{self.path}:{value.line}: {value}"
        if id(node) in self.shared:
            raise self._is_shared(value)
        if node.id != "scalar" or node.style in ("|", ">"):
            raise UnsuitableFile(f"{where} is not a value on one line")
        if "{{" in node.value:
            raise UnsuitableFile(
                f"{where} is filled in by a template",
                hint="name the file with the values of the template instead",
            )
        start, end = node.start_mark.index, node.end_mark.index
        properties = _PROPERTIES.match(self.text, start, end)
        start = properties.end() if properties else start
        gap = ""
        if start == end and (empty := _EMPTY.search(self.text, 0, start)):
            start = end = empty.start() + 1  # the marks of nothing are those of what follows
            gap = " "
        style = node.style if node.style in ("'", '"') else ""
        same = (node.tag, node.value) == _scalar(new)
        written = self.text[start:end] if same else gap + _written(new, style)
        return Edit(start, end, written, {value.path: _scalar(new)})

    def set_entries(self, mapping: YamlValue, wanted: Mapping[str, str | int]) -> list[Edit]:
        """The edits that replace the entries that are there, and add the others, but for empty
        ones, below the last of them or of `name`. Raises UnsuitableFile.
        """
        there = {key: value for key in wanted if (value := mapping.get(key))}
        missing = {key: new for key, new in wanted.items() if key not in there and new != ""}
        edits = [self.replace(value, wanted[key]) for key, value in there.items()]
        if missing:
            known = [entry for entry in mapping.entries if entry.path[-1] in (*there, "name")]
            last = max(known or mapping.entries, key=lambda entry: int(entry.node.end_mark.index))
            edits += self.insert(mapping, missing, after=str(last.path[-1]))
        return edits

    def replace_in_braces(self, mapping: YamlValue, entries: Mapping[str, int]) -> Edit:
        """The edit that gives a mapping in braces other entries. Raises UnsuitableFile."""
        node, where = mapping.node, f"{self.path}:{mapping.line}: {mapping}"
        if id(node) in self.shared:
            raise self._is_shared(mapping)
        if not (mapping.is_mapping and node.flow_style):
            raise UnsuitableFile(f"{where} is not a mapping in braces", hint="write it as {}")
        values = {(*mapping.path, key): _scalar(new) for key, new in entries.items()}
        removed = {value.path for value in mapping.walk()} - {mapping.path, *values}
        text = "{" + ", ".join(f"{key}: {new}" for key, new in entries.items()) + "}"
        before = {str(value.path[-1]): value.text for value in mapping.entries}
        if before == {key: str(new) for key, new in entries.items()}:
            text = self.text[node.start_mark.index : node.end_mark.index]
        return Edit(node.start_mark.index, node.end_mark.index, text, values, frozenset(removed))

    def insert(
        self, mapping: YamlValue, entries: Mapping[str, str | int], *, after: str
    ) -> list[Edit]:
        """The edits that add entries below the one of the key `after`. Raises UnsuitableFile if
        other places share the mapping.
        """
        if id(mapping.node) in self.shared:
            raise self._is_shared(mapping)
        above, value = next(pair for pair in mapping.node.value if pair[0].value == after)
        written = [f"{key}: {_written(new, '')}" for key, new in entries.items()]
        if mapping.node.flow_style:
            end, text = value.end_mark.index, "".join(f", {entry}" for entry in written)
        else:
            newline = "\r\n" if "\r\n" in self.text else "\n"
            end = self.text.find(newline, value.end_mark.index)
            end = len(self.text) if end < 0 else end
            text = "".join(f"{newline}{' ' * above.start_mark.column}{entry}" for entry in written)
        texts = (text, *[""] * (len(entries) - 1))
        return [
            Edit(end, end, part, {(*mapping.path, key): _scalar(new)})
            for part, (key, new) in zip(texts, entries.items(), strict=True)
        ]

    def _is_shared(self, value: YamlValue) -> UnsuitableFile:
        return UnsuitableFile(
            f"{self.path}:{value.line}: {value} is used in several places through an anchor",
            hint="write it out where the image is set, without anchor or alias",
        )

    def line(self, index: int) -> int:
        """The number of the line of a position in the text."""
        return self.text.count("\n", 0, index) + 1

    def edited(self, edits: Sequence[Edit]) -> bytes:
        """The content of the file with all edits. Raises UnsuitableFile if it would differ in
        anything else.
        """
        text = self.text
        for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
            text = text[: edit.start] + edit.text + text[edit.end :]
        wanted = _values(self.documents)
        for edit in edits:
            wanted |= edit.values
            for path in edit.removed:
                del wanted[path]
        after = YamlFile.parse(self.path, text.encode())
        if _values(after.documents) != wanted:
            raise UnsuitableFile(f"{self.path}: setting a value would change others too")
        return text.encode()


@dataclass(frozen=True, slots=True)
class Edit:
    """`text[start:end]` of a file becomes `text`; with that, scalars get the `values`, each a tag
    and a text, and others are `removed`.
    """

    start: int
    end: int
    text: str
    values: Mapping[KeyPath, tuple[str, str]]
    removed: frozenset[KeyPath] = frozenset()


def _compose(path: str, text: str) -> list[Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    steps = (1 if bracket in "[{" else -1 for bracket in re.findall(r"[][{}]", text))
    if max(accumulate(steps), default=0) > _MAX_DEPTH:  # the parser takes quadratic time for them
        raise UnsuitableFile(f"{path} has more than {_MAX_DEPTH} brackets within each other")
    try:
        roots = list(YAML(typ="safe", pure=True).compose_all(text))
    except (YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        at = f":{mark.line + 1}" if mark else ""
        reason = error.problem if isinstance(error, MarkedYAMLError) else str(error)[:100]
        hint = "a template is not YAML: name the file with its values" if "{{" in text else ""
        raise UnsuitableFile(f"{path}{at}: not valid YAML: {reason}", hint=hint) from None
    return [root for root in roots if root is not None]


def _shared(path: str, roots: Sequence[Any]) -> frozenset[int]:
    """The ids of nodes that are found in several places, and of all below them."""
    seen, shared = set[int](), set[int]()
    waiting = [(root, False) for root in roots]
    while waiting:
        node, again = waiting.pop()
        again = again or id(node) in seen
        if again and id(node) in shared:
            continue
        seen.add(id(node))
        if again:
            shared.add(id(node))
        if node.id == "mapping":
            _check_keys(path, node)
            waiting += [(value, again) for _, value in node.value]
        elif node.id == "sequence":
            waiting += [(value, again) for value in node.value]
    return frozenset(shared)


def _check_keys(path: str, mapping: Any) -> None:
    """Raises UnsuitableFile for keys that are not strings, and for equal ones."""
    where = f"{path}:{mapping.start_mark.line + 1}"
    keys = set[str]()
    for key, _ in mapping.value:
        if key.id != "scalar":
            hint = "a template is not YAML: name the file with its values"
            raise UnsuitableFile(f"{where}: a key is a collection", hint=hint)
        if key.value in keys and key.value != "<<":
            raise UnsuitableFile(f"{where}: the key {key.value!r} is there twice")
        keys.add(key.value)


def _values(documents: Sequence[YamlValue]) -> dict[KeyPath, tuple[str, str]]:
    """Type and text of each scalar by its path, with the sizes of collections left out."""
    values: dict[KeyPath, tuple[str, str]] = {}
    for document in documents:
        for value in document.walk():
            if len(values) > _MAX_VALUES:
                raise UnsuitableFile(f"the file has more than {_MAX_VALUES} values")
            values[value.path] = (value.node.tag, value.text)
    return values


def _scalar(new: str | int) -> tuple[str, str]:
    """Tag and text of a scalar."""
    return (_STRING if isinstance(new, str) else _INTEGER, str(new))


def _written(new: str | int, style: str) -> str:
    """A scalar that is read as the string or the integer."""
    if isinstance(new, int):
        return str(new)
    text = new
    if style == "'":
        return f"'{text}'"
    if style == '"' or not _PLAIN.match(text) or _OTHER.match(text):
        return f'"{text}"'
    return text
