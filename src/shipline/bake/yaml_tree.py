"""YAML -> dictionaries that know the lines of their keys.

Merge keys (`<<`) are resolved, aliases share what they name, and how much comes out is bounded.
"""

from __future__ import annotations

from typing import Any, NoReturn

from shipline.bake.syntax import BakeError
from shipline.errors import Span

_MOST_NODES = 100_000
_MAX_DEPTH = 100
_TAG = "tag:yaml.org,2002:"


class YamlMap(dict[str, Any]):
    """A mapping of a file; `lines` has the line of each key. `resets` are keys with the tag
    `!reset`, which are not in it, and `overrides` those with `!override`: compose-spec,
    13-merge.md.
    """

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file
        self.lines: dict[str, int] = {}
        self.resets: set[str] = set()
        self.overrides: set[str] = set()


def fail(file: str, line: int, message: str, hint: str = "", source: str = "") -> NoReturn:
    """Raise BakeError at a line."""
    error = BakeError(message, hint=hint)
    text = source.split("\n")[line - 1] if source and line <= source.count("\n") + 1 else ""
    error.span = Span(file, line, line, 1, text, source)
    raise error


def parse_yaml(file: str, content: bytes) -> YamlMap:
    """The document. Raises BakeError with the line."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        source = content.decode()
    except UnicodeDecodeError:
        raise BakeError(
            f"cannot read {file}: it is not UTF-8 text", code="bake-unreadable"
        ) from None
    try:
        root = YAML(typ="safe", pure=True).compose(source)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = str(error.problem or error.context)
        fail(file, mark.line + 1 if mark else 1, f"not valid YAML: {problem}", source=source)
    except (YAMLError, ValueError, RecursionError) as error:
        reason = str(error).split("\n")[0]
        raise BakeError(
            f"cannot read {file}: not valid YAML: {reason}", code="bake-unreadable"
        ) from None
    if root is None:
        return YamlMap(file)
    reader = _Reader(file, source)
    found = reader.read(root, 0)
    if not isinstance(found, YamlMap):
        fail(file, 1, "a compose file is a mapping", source=source)
    return found


class _Reader:
    def __init__(self, file: str, source: str) -> None:
        self.file = file
        self.source = source
        self.count = 0

    def fail(self, node: Any, message: str) -> NoReturn:
        fail(self.file, node.start_mark.line + 1, message, source=self.source)

    def read(self, node: Any, depth: int) -> Any:
        self.count += 1
        if self.count > _MOST_NODES or depth > _MAX_DEPTH:
            self.fail(node, "the file is too big, or nested too deeply")
        kind = type(node).__name__
        if kind == "MappingNode":
            return self.mapping(node, depth)
        if kind == "SequenceNode":
            return [self.read(one, depth + 1) for one in node.value]
        return _scalar(str(node.tag), node.value)

    def mapping(self, node: Any, depth: int) -> YamlMap:
        found = YamlMap(self.file)
        merged: list[YamlMap] = []
        for key, value in node.value:
            line = key.start_mark.line + 1
            if type(key).__name__ != "ScalarNode":
                self.fail(key, "a key has to be a text")
            if str(key.tag) == f"{_TAG}merge":
                inner = self.read(value, depth + 1)
                merged.extend(inner if isinstance(inner, list) else [inner])
                continue
            if key.value in found:
                self.fail(key, f"the key {key.value} is there twice")
            if str(value.tag) == "!reset":
                found.resets.add(key.value)
                continue
            if str(value.tag) == "!override":
                found.overrides.add(key.value)
            found[key.value] = self.read(value, depth + 1)
            found.lines[key.value] = line
        for other in merged:
            if not isinstance(other, YamlMap):
                self.fail(node, "what << merges has to be a mapping")
            for name, value in other.items():
                if name not in found:
                    found[name] = value
                    found.lines[name] = other.lines[name]
        return found


def _scalar(tag: str, value: str) -> Any:
    if tag == f"{_TAG}null":
        return None
    if tag == f"{_TAG}bool":
        return value.lower() == "true"
    if tag == f"{_TAG}int":
        try:
            return int(value.replace("_", ""), 0)
        except ValueError:
            return value
    if tag == f"{_TAG}float":
        try:
            return float(value)
        except ValueError:
            return value
    return value
