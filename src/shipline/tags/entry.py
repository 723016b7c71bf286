"""One tag of a rule: our template, or an entry of docker/metadata-action in text or YAML."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from shipline.errors import ConfigError
from shipline.tags.templates import VERSION_FIELDS, check_template, fields_of
from shipline.values import doc

EntryType = Literal[
    "template", "schedule", "semver", "pep440", "match", "edge", "ref", "raw", "sha"
]
_TYPES: tuple[EntryType, ...] = (
    "template", "schedule", "semver", "pep440", "match", "edge", "ref", "raw", "sha",
)  # fmt: skip
_PRIORITIES: dict[str, int] = {
    "schedule": 1000,
    "template": 950,
    "semver": 900,
    "pep440": 900,
    "match": 800,
    "edge": 700,
    "ref": 600,
    "raw": 200,
    "sha": 100,
}
_PREFIXES = {"sha": "sha-", "ref/pr": "pr-"}
_TYPED = re.compile(r"(?:^|,)\s*type\s*=", re.IGNORECASE)
_UNTYPED = re.compile(r"=|\{\{")  # neither is in a template
_FIELD = re.compile(r"(?<!\{)\{[^{}]*\}(?!\})")


class InvalidTags(ConfigError):
    """An entry of `tags` is not valid."""

    code = "tags-invalid"


@dataclass(frozen=True, slots=True)
class TagEntry:
    """An entry of a rule. Keys that its type does not use are errors."""

    template: str = field(
        default="", metadata=doc("A tag with fields: v{version}, dev-{sha}, latest.")
    )
    type: EntryType = field(
        default="template", metadata=doc("The kind, as docker/metadata-action has them.")
    )
    enable: str = field(
        default="true", metadata=doc("true, false or an expression: {{is_default_branch}}.")
    )
    priority: int | None = field(
        default=None, metadata=doc("Entries with a higher priority come first.")
    )
    prefix: str | None = field(default=None, metadata=doc("Prefix of the tag."))
    suffix: str | None = field(default=None, metadata=doc("Suffix of the tag."))
    pattern: str = field(
        default="",
        metadata=doc("The format of a version or date; for match, the regular expression."),
    )
    group: int = field(default=0, metadata=doc("match: the group of the pattern that is the tag."))
    match: str = field(
        default="",
        metadata=doc(
            "semver, pep440: a regular expression for the git tag; group 1 is the version."
        ),
    )
    value: str = field(default="", metadata=doc("The text to use instead of the git tag."))
    event: Literal["", "branch", "tag", "pr"] = field(
        default="", metadata=doc("ref: the kind of ref.")
    )
    branch: str = field(
        default="", metadata=doc("edge: the branch, else the default branch of the remote.")
    )
    format: Literal["short", "long"] = field(
        default="short", metadata=doc("sha: short (seven digits) or long.")
    )
    immutable: bool | None = field(
        default=None, metadata=doc("Whether the tag may never move to another image.")
    )

    @classmethod
    def read(cls, text: str) -> Self:
        """`type=semver,pattern={{version}}`, or a template. Raises ConfigError.

        As in docker/metadata-action, keys have any order and case, and an entry without a type is
        raw.
        """
        if not (_TYPED.search(text) or (_UNTYPED.search(text) and not _FIELD.search(text))):
            return cls(template=text.strip())
        values: dict[str, Any] = {"type": "raw"}
        for item in next(csv.reader([text.strip()], skipinitialspace=True)):
            key, equals, value = (part.strip() for part in item.partition("="))
            if not equals:
                key, value = "value", item.strip()
            _set(values, key.lower(), value, text)
        return cls(**values)

    def __post_init__(self) -> None:
        _check(self)

    @property
    def rank(self) -> int:
        """The priority, by default that of the type."""
        return _PRIORITIES[self.type] if self.priority is None else self.priority

    @property
    def front(self) -> str | None:
        """The prefix, by default that of the type."""
        kind = f"{self.type}/{self.event}" if self.type == "ref" else self.type
        return self.prefix if self.prefix is not None else _PREFIXES.get(kind)

    @property
    def needs_version(self) -> bool:
        return bool(fields_of(self.template) & VERSION_FIELDS)

    def __str__(self) -> str:
        if self.type == "template":
            return self.template
        names = ("event", "pattern", "value", "branch")
        shown = [f"{name}={value}" for name in names if (value := getattr(self, name))]
        return ",".join([f"type={self.type}", *shown])


def _set(values: dict[str, Any], key: str, value: str, text: str) -> None:
    known = {item.name for item in fields(TagEntry)} - {"template"}
    if key not in known:
        raise InvalidTags(f"{text}: there is no key {key!r}", hint=", ".join(sorted(known)))
    if key in {"priority", "group"}:
        if not re.fullmatch(r"-?\d+", value):
            raise InvalidTags(f"{text}: {key} must be a whole number, not {value!r}")
        values[key] = int(value)
    elif key == "immutable":
        values[key] = value == "true"
    else:
        values[key] = value


def _check(entry: TagEntry) -> None:
    """Raises ConfigError for an entry that cannot give a tag."""
    if entry.type not in _TYPES:
        known = ", ".join(_TYPES)
        raise InvalidTags(f"type: there is no type {entry.type!r}", hint=f"one of {known}")
    if entry.type == "template":
        check_template(entry.template)
    elif entry.template:
        raise InvalidTags(f"template: type {entry.type} has none")
    if entry.type == "ref" and entry.event not in {"branch", "tag", "pr"}:
        raise InvalidTags("event: type=ref needs event=branch, event=tag or event=pr")
    if entry.type in {"semver", "pep440", "match"} and not entry.pattern:
        raise InvalidTags(f"pattern: type={entry.type} needs one, such as {{{{version}}}}")
    if entry.type == "match":
        search_pattern(entry.pattern)
    if entry.match:
        _check_match(entry)
    if entry.type == "raw" and not entry.value:
        raise InvalidTags("value: type=raw needs one")
    if entry.type == "sha" and entry.format not in {"short", "long"}:
        raise InvalidTags("format: short or long")


def _check_match(entry: TagEntry) -> None:
    if entry.type not in {"semver", "pep440"}:
        raise InvalidTags(f"match: type={entry.type} has none; type=match has a pattern")
    if not regular_expression(entry.match, key="match").groups:
        raise InvalidTags("match: needs a group around the version, such as app/v(.*)")


def search_pattern(pattern: str) -> re.Pattern[str]:
    """A regular expression, bare or as `/expression/flags`. Raises ConfigError."""
    match = re.fullmatch(r"/(.+)/([dgimsuvy]*)", pattern, re.DOTALL)
    return regular_expression(*match.groups()) if match else regular_expression(pattern)


def regular_expression(text: str, letters: str = "", *, key: str = "pattern") -> re.Pattern[str]:
    """A regular expression of JavaScript with the letters of its flags. Raises ConfigError."""
    flags = sum(getattr(re, letter.upper()) for letter in set(letters) & set("ims"))
    try:
        return re.compile(re.sub(r"\(\?<(?![=!])", "(?P<", text), flags | re.ASCII)
    except (re.error, OverflowError) as error:
        raise InvalidTags(f"{key}: not a regular expression: {error}") from error
