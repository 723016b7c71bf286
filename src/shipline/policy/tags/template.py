"""Our own templates: `v{major}.{minor}.{patch}`, `feature-{name}-{sha}`, `dev-{sha:8}`.

A field is filled in with its value. Two braces belong to the other syntax (`handlebars`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from shipline.errors import ConfigError
from shipline.policy.tags.pieces import Piece

VERSION_FIELDS = frozenset({"version", "major", "minor", "patch", "prerelease"})
FIELDS = VERSION_FIELDS | {"branch", "name", "tag", "sha", "commit", "number", "date"}
SHA_WIDTH = 12  # digits, more where they are ambiguous
_NARROWEST = 7
_FIELD = re.compile(r"\{(?P<name>[A-Za-z_-]*)(?::(?P<width>\d+))?\}")
_LITERAL = re.compile(r"[A-Za-z0-9._-]*\Z")


def fields_of(template: str) -> frozenset[str]:
    """The names of the fields in the template."""
    return frozenset(found["name"] for found in _FIELD.finditer(template))


def check_template(template: str) -> None:
    """Raises ConfigError for a field that is not known, or text that no tag can hold."""
    for found in _FIELD.finditer(template):
        name, width = found["name"], found["width"]
        if name not in FIELDS:
            raise ConfigError(f"{template}: there is no field {{{name}}}{_meant(name)}")
        if width and (name not in {"sha", "commit"} or not _NARROWEST <= int(width) <= 40):
            raise ConfigError(f"{template}: only {{sha:7}} to {{sha:40}} have a width")
    literal = _FIELD.sub("", template)
    if not _LITERAL.match(literal):
        raise ConfigError(
            f"{template}: a tag holds letters, digits, '_', '.' and '-' beside its fields"
        )
    if not template or template[0] in ".-":
        raise ConfigError(f"{template!r}: a tag begins with a letter, a digit or '_'")


def fill(template: str, values: Mapping[str, Piece], sha: str, unique: int) -> tuple[Piece, ...]:
    """The template with its fields filled in; `sha` is cut to the width that is asked for, and
    never below `unique` digits. Raises ConfigError for a field that has no value here.
    """
    pieces, end = [], 0
    for found in _FIELD.finditer(template):
        pieces.append(Piece(template[end : found.start()]))
        end = found.end()
        if found["name"] in {"sha", "commit"}:
            pieces.append(Piece(sha[: max(int(found["width"] or SHA_WIDTH), unique)]))
        elif (value := values.get(found["name"])) is not None:
            pieces.append(value)
        else:
            raise ConfigError(f"{template}: {{{found['name']}}} has no value on this event")
    pieces.append(Piece(template[end:]))
    return tuple(piece for piece in pieces if piece.text)


def is_fixed(template: str) -> bool:
    """Whether the tag can never mean another commit: it has the commit, or a whole version."""
    fields = fields_of(template)
    return bool(fields & {"sha", "commit", "version", "tag"}) or {"major", "minor", "patch"} <= (
        fields
    )


def hides_prerelease(template: str) -> bool:
    """Whether the tag of a prerelease would pass for one of the release."""
    fields, telling = fields_of(template), {"version", "prerelease", "tag", "sha", "commit"}
    return bool(fields & VERSION_FIELDS) and not fields & telling


def _meant(name: str) -> str:
    from difflib import get_close_matches  # only where something is wrong

    found = get_close_matches(name, sorted(FIELDS), 1)
    return f" (did you mean {{{found[0]}}}?)" if found else ""
