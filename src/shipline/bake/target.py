"""Targets: their attributes, how values of several blocks are merged, and their JSON.

Reference: docs/bake-reference.md of docker/buildx.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct, field

from shipline.bake.entries import entries_of, without_duplicates
from shipline.bake.typed import (
    BOOL,
    STRING,
    Type,
    TypeMismatch,
    Value,
    boolean,
    convert,
    list_of,
    list_with,
    map_of,
    map_with,
    null,
    text,
)

Merging = Literal["replace", "append", "update"]
_TEXTS, _TEXT_MAP = list_of(STRING), map_of(STRING)


class AttributeKind(Struct, frozen=True):
    """The type of an attribute, and what a later value does to an earlier one; `entries` names the
    kind of its entries.
    """

    type: Type
    merging: Merging = "replace"
    entries: str = ""


def _entries(kind: str, merging: Merging) -> AttributeKind:
    return AttributeKind(list_of(_TEXT_MAP), merging, kind)


ATTRIBUTES: dict[str, AttributeKind] = {
    "description": AttributeKind(STRING),
    "inherits": AttributeKind(_TEXTS, "append"),
    "annotations": AttributeKind(_TEXTS, "append"),
    "attest": _entries("attest", "append"),
    "context": AttributeKind(STRING),
    "contexts": AttributeKind(_TEXT_MAP, "update"),
    "dockerfile": AttributeKind(STRING),
    "dockerfile-inline": AttributeKind(STRING),
    "args": AttributeKind(_TEXT_MAP, "update"),
    "labels": AttributeKind(_TEXT_MAP, "update"),
    "tags": AttributeKind(_TEXTS),
    "cache-from": _entries("cache", "append"),
    "cache-to": _entries("cache", "replace"),
    "target": AttributeKind(STRING),
    "secret": _entries("secret", "append"),
    "ssh": _entries("ssh", "append"),
    "platforms": AttributeKind(_TEXTS),
    "output": _entries("output", "replace"),
    "pull": AttributeKind(BOOL),
    "no-cache": AttributeKind(BOOL),
    "network": AttributeKind(STRING),
    "no-cache-filter": AttributeKind(_TEXTS, "append"),
    "shm-size": AttributeKind(STRING),
    "ulimits": AttributeKind(_TEXTS, "append"),
    "call": AttributeKind(STRING),
    "entitlements": AttributeKind(_TEXTS, "append"),
    "policy": AttributeKind(_TEXTS, "append"),
    "extra-hosts": AttributeKind(_TEXT_MAP, "update"),
}
"""In the order of `--print`."""

GROUP_ATTRIBUTES = {"description": AttributeKind(STRING), "targets": AttributeKind(_TEXTS)}


class Target(Struct):
    """A target: `values` has an attribute only if it was set: str, bool, a list of str or entries,
    or a dict. `linked` is one that only others need.
    """

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    linked: bool = False

    def texts(self, attribute: str) -> list[str]:
        return list(self.values.get(attribute) or ())

    def merge(self, later: Target) -> None:
        """Take the values of `later`, which win."""
        for name, value in later.values.items():
            kind, own = ATTRIBUTES[name], self.values.get(name)
            if kind.merging == "update":
                if value:
                    self.values[name] = {**(own or {}), **value}
            elif kind.merging == "append" and own is not None:
                self.values[name] = [*own, *value]
                if kind.entries:
                    self.values[name] = without_duplicates(kind.entries, self.values[name])
            else:
                self.values[name] = list(value) if isinstance(value, list) else value

    def normalize(self) -> None:
        """Without duplicates, empty texts and contexts that were taken away."""
        if self.values.get("network") == "host":
            self.values["entitlements"] = [*self.texts("entitlements"), "network.host"]
        for name, kind in ATTRIBUTES.items():
            value = self.values.get(name)
            if kind.entries and value is not None:
                self.values[name] = without_duplicates(kind.entries, value)
            elif isinstance(value, list) and name != "inherits":
                self.values[name] = [one for one in dict.fromkeys(value) if one]
        if "contexts" in self.values:
            contexts = self.values["contexts"]
            self.values["contexts"] = {key: one for key, one in contexts.items() if one}

    def to_json(self) -> dict[str, Any]:
        """The form of `--print`; templates in texts are escaped."""
        found: dict[str, Any] = {}
        for name, kind in ATTRIBUTES.items():
            value = self.values.get(name)
            if value is None or (value in ("", [], {}) and name not in _KEPT_EMPTY):
                continue
            if name == "inherits":
                continue
            if name in _ESCAPED:
                value = _escaped(value)
            elif kind.entries and kind.entries != "secret":  # those have an order of their own
                value = [dict(sorted(one.items())) for one in value]
            found[name] = dict(sorted(value.items())) if isinstance(value, dict) else value
        return found

    def to_value(self, attribute: str) -> Value:
        """The attribute as another block sees it."""
        return _value_of(ATTRIBUTES[attribute], self.values.get(attribute))


_KEPT_EMPTY = (
    "context",
    "dockerfile",
    "dockerfile-inline",
    "target",
    "network",
    "shm-size",
    "call",
)
_ESCAPED = ("annotations", "dockerfile-inline", "labels", "args", "extra-hosts")


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("${", "$${").replace("%{", "%%{")
    if isinstance(value, list):
        return [_escaped(one) for one in value]
    return {key: _escaped(one) for key, one in value.items()}


def _value_of(kind: AttributeKind, value: Any) -> Value:
    if value is None and kind.type.is_primitive:
        return null(kind.type)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bool):
        return boolean(value)
    if kind.type == _TEXT_MAP:
        found = (
            {key: null(STRING) if one is None else text(one) for key, one in value.items()}
            if value
            else {}
        )
        return map_with(found, STRING)
    if kind.entries:
        rows = [
            map_with({key: text(_plain(one)) for key, one in entry.items()}, STRING)
            for entry in value or ()
        ]
        return list_with(rows, _TEXT_MAP)
    return list_with([text(one) for one in value or ()], STRING)


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "true" if value is True else str(value)


def decode(name: str, value: Value, kinds: Mapping[str, AttributeKind] = ATTRIBUTES) -> Any:
    """What a Target keeps of a value; None for null. Raises TypeMismatch, UsageError."""
    kind = kinds[name]
    if value.is_null:
        return None
    if kind.entries:
        return entries_of(kind.entries, value)
    found = convert(value, kind.type)
    if kind.type == _TEXTS:
        if any(one.is_null for one in found.data):
            raise TypeMismatch("an element is null")
        return [one.data for one in found.data]
    if kind.type == _TEXT_MAP:
        return {
            key: one.data
            for key, one in found.data.items()
            if not (one.is_null and name != "contexts")
        }
    return found.data


class Group(Struct):
    """A group of targets and groups, by name."""

    name: str
    targets: list[str] = field(default_factory=list)
    description: str = ""

    def to_json(self) -> dict[str, Any]:
        described = {"description": self.description} if self.description else {}
        return {**described, "targets": self.targets}
