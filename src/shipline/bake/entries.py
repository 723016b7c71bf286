"""Entries of targets that are written as comma-separated fields, or as objects: caches, outputs,
attestations, secrets and agents.

The forms are those of buildx (util/buildflags): what it accepts, and what `--print` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shipline.bake.typed import STRING, TypeMismatch, Value, convert, list_of, map_of
from shipline.build import parse_boolean, split_csv
from shipline.errors import InvalidFlag, UsageError

Entry = dict[str, Any]
"""Fields by name; `paths` of an agent is a list, `disabled` of an attestation a boolean."""


def parse_entries(kind: str, texts: Iterable[str]) -> list[Entry]:
    """The entries that texts write; empty texts are none. Raises UsageError."""
    if kind == "cache":
        return [one for text in texts if text for one in _caches(text)]
    return [_PARSERS[kind](text) for text in texts if text]


def entries_of(kind: str, value: Value) -> list[Entry]:
    """The entries of a list of texts and objects. Raises UsageError, TypeMismatch."""
    if not value.type.is_sequence:
        raise TypeMismatch(f"{list_of(map_of(STRING))} is required")
    found: list[Entry] = []
    for one in value.data:
        if one.is_null:
            raise TypeMismatch("an element is null")
        if one.type == STRING:
            found.extend(parse_entries(kind, [one.data]))
        else:
            found.append(_entry(kind, one))
    return found


def _entry(kind: str, value: Value) -> Entry:
    if kind == "ssh":
        return _agent_of(value)
    converted = convert(value, map_of(STRING))
    fields = {key: one.data for key, one in converted.data.items() if not one.is_null}
    if kind == "secret":
        unknown = fields.keys() - {"id", "src", "env", "type"}
        fields = {key: text for key, text in fields.items() if key not in unknown and text}
        return _secret_order(fields)
    if kind == "attest":
        if "disabled" in fields:
            fields["disabled"] = parse_boolean(fields["disabled"], "attest disabled")
        return _attest_order(fields)
    if not fields.get("type"):
        raise InvalidFlag(f"an entry of {'output' if kind == 'output' else 'a cache'} has no type")
    return fields


def _agent_of(value: Value) -> Entry:
    if not value.type.is_mapping:
        raise TypeMismatch("an object with id and paths is required")
    name, paths = value.data.get("id"), value.data.get("paths")
    entry: Entry = {}
    if name is not None and not name.is_null:
        entry["id"] = convert(name, STRING).data
    if paths is not None and not paths.is_null:
        entry["paths"] = [one.data for one in convert(paths, list_of(STRING)).data]
    return {key: one for key, one in entry.items() if one}


def _fields(text: str, what: str, *, lower: bool = True) -> Entry:
    found: Entry = {}
    for part in split_csv(text):
        key, equals, value = part.partition("=")
        if not equals:
            raise InvalidFlag(f"{what}: {part!r} in {text!r} is not key=value")
        name = key.strip().lower()
        found[name if lower or name in ("type", "disabled") else key] = value
    return found


def _caches(text: str) -> list[Entry]:
    parts = split_csv(text)
    if all("=" not in part for part in parts):
        return [{"type": "registry", "ref": part} for part in parts]
    fields = _fields(text, "a cache")
    if not fields.get("type"):
        raise InvalidFlag(f"a cache has no type: {text!r}")
    return [fields]


def _output(text: str) -> Entry:
    if split_csv(text) == (text,) and not text.startswith("type="):
        return {"type": "tar" if text == "-" else "local", "dest": text}
    fields = _fields(text, "output")
    if not fields.get("type"):
        raise InvalidFlag(f"an output has no type: {text!r}")
    return {key: one for key, one in fields.items() if one or key != "dest"}


def _attest(text: str) -> Entry:
    fields = _fields(text, "attest", lower=False)
    if not fields.get("type"):
        raise InvalidFlag(f"attest has no type: {text!r}")
    if "disabled" in fields:
        fields["disabled"] = parse_boolean(fields["disabled"], "attest disabled")
    return _attest_order(fields)


def _attest_order(fields: Entry) -> Entry:
    if not fields.get("disabled"):
        fields.pop("disabled", None)
    return fields


def _secret(text: str) -> Entry:
    fields = _fields(text, "secret")
    source = fields.pop("source", "")
    if source:
        fields["src"] = source
    kind = fields.pop("type", "")
    if kind not in ("", "file", "env") or fields.keys() - {"id", "src", "env"}:
        raise UsageError(f"secret: cannot read {text!r}", code="secret-unreadable")
    if kind == "env" and not fields.get("env"):
        fields["env"] = fields.pop("src", "")
    if kind:
        fields["type"] = kind
    return _secret_order(fields)


def _secret_order(fields: Entry) -> Entry:
    """Without the type, which the other fields say."""
    return {key: fields[key] for key in ("id", "src", "env") if fields.get(key)}


def _agent(text: str) -> Entry:
    name, equals, paths = text.partition("=")
    return {"id": name, **({"paths": paths.split(",")} if equals else {})}


_PARSERS: dict[str, Callable[[str], Entry]] = {
    "output": _output,
    "attest": _attest,
    "secret": _secret,
    "ssh": _agent,
}


def written(kind: str, entry: Entry) -> str:
    """The entry as a flag of `build` has it."""
    if kind == "ssh":
        paths = entry.get("paths")
        return f"{entry.get('id', '')}={','.join(paths)}" if paths else str(entry.get("id", ""))
    if kind == "cache" and entry.keys() == {"type", "ref"} and entry["type"] == "registry":
        return str(entry["ref"])
    return ",".join(_field(key, value) for key, value in entry.items())


def _field(key: str, value: object) -> str:
    text = f"{key}={'true' if value is True else value}"
    if any(character in text for character in ',"\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


_NAMING = {"attest": "type", "secret": "id", "ssh": "id"}


def without_duplicates(kind: str, entries: Sequence[Entry]) -> list[Entry]:
    """Each entry once, in the order that buildx gives them; of attestations the last of a type, of
    secrets and agents the last of a name, in the place of the first.
    """
    if name := _NAMING.get(kind):
        return [*{one.get(name, ""): one for one in entries}.values()]
    found = list(entries)
    for at in range(len(found) - 2, -1, -1):
        for later in range(at + 1, len(found)):
            if found[at] == found[later]:
                found[later] = found[-1]
                found.pop()
                break
    return found
