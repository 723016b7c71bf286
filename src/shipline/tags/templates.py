"""Templates of tags: ours and docker/metadata-action's, with dates, and the rules that keep a
rendered tag legal and unambiguous.

Each tag belongs to one name, which gets it without more: `feature-login` to `feature/login`, any
other one to the name that is spelt like it. All other names are cleaned and end in the beginning of
the SHA-256 of the whole name, and so does a legal one that looks like that: thus two never become
one, and none depends on which other refs there are just now.

A field is filled in with its value. Two braces belong to the other syntax (`handlebars`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from shipline.errors import ConfigError, closest

_MONTHS = "January February March April May June July August September October November December"
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
_TOKENS: dict[str, Callable[[datetime], str]] = {
    "YYYY": lambda at: f"{at.year:04}",
    "YY": lambda at: f"{at.year % 100:02}",
    "Q": lambda at: str((at.month + 2) // 3),
    "MMMM": lambda at: _MONTHS.split()[at.month - 1],
    "MMM": lambda at: _MONTHS.split()[at.month - 1][:3],
    "MM": lambda at: f"{at.month:02}",
    "M": lambda at: str(at.month),
    "DDDD": lambda at: f"{at.timetuple().tm_yday:03}",
    "DDD": lambda at: str(at.timetuple().tm_yday),
    "DD": lambda at: f"{at.day:02}",
    "D": lambda at: str(at.day),
    "dddd": lambda at: _DAYS.split()[at.weekday()],
    "ddd": lambda at: _DAYS.split()[at.weekday()][:3],
    "dd": lambda at: _DAYS.split()[at.weekday()][:2],
    "d": lambda at: str(at.isoweekday() % 7),
    "E": lambda at: str(at.isoweekday()),
    "GGGG": lambda at: f"{at.isocalendar().year:04}",
    "WW": lambda at: f"{at.isocalendar().week:02}",
    "W": lambda at: str(at.isocalendar().week),
    "HH": lambda at: f"{at.hour:02}",
    "H": lambda at: str(at.hour),
    "hh": lambda at: f"{(at.hour + 11) % 12 + 1:02}",
    "h": lambda at: str((at.hour + 11) % 12 + 1),
    "A": lambda at: "PM" if at.hour > 11 else "AM",
    "a": lambda at: "pm" if at.hour > 11 else "am",
    "mm": lambda at: f"{at.minute:02}",
    "m": lambda at: str(at.minute),
    "ss": lambda at: f"{at.second:02}",
    "s": lambda at: str(at.second),
    "SSS": lambda at: f"{at.microsecond // 1000:03}",
    "ZZ": lambda at: f"{at:%z}",
    "Z": lambda at: f"{at:%z}"[:3] + ":" + f"{at:%z}"[3:],
    "X": lambda at: str(int(at.timestamp())),
    "x": lambda at: str(int(at.timestamp() * 1000)),
}
_PATTERN = re.compile(
    r"\[(?P<literal>[^\]]*)\]|(?P<token>"
    + "|".join(sorted(_TOKENS, key=lambda token: (-len(token), token)))
    + ")"
)
_ISO = "YYYY-MM-DDTHH:mm:ssZ"
_ISO_UTC = "YYYY-MM-DDTHH:mm:ss[Z]"


def render_date(seconds: int, pattern: str = "", zone: str = "") -> str:
    """The time `seconds` after 1970, formatted by `pattern`; in UTC unless `zone` is given. Raises
    ValueError for an unknown zone.
    """
    at = datetime.fromtimestamp(seconds, _zone(zone) if zone else UTC)
    return _PATTERN.sub(
        lambda match: _TOKENS[match["token"]](at) if match["token"] else match["literal"],
        pattern or (_ISO if at.utcoffset() else _ISO_UTC),
    )


def _zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # slow to import, and seldom asked for

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"there is no time zone {name!r}") from error


LONGEST = 128  # characters of a tag
_MARK = 8  # hexadecimal digits
_ILLEGAL = re.compile(r"[^A-Za-z0-9._-]+")
_MARKED = re.compile(rf"(?:.*-)?(?=\d*[a-f])[0-9a-f]{{{_MARK}}}\Z", re.DOTALL)
_VERSION = re.compile(r"v?\d+(?:\.\d+){0,2}(?:[-+.].*)?\Z")
_DIRECTORY = re.compile(r"\A(feature|feat|bugfix|hotfix|releases?)-(?=.)")
_RESERVED = {"latest", "edge", "nightly"}


def clean(name: str, *, limit: int = LONGEST, unique: bool = True) -> str:
    """`name` as (part of) a tag of at most `limit` characters.

    Without `unique` only invalid characters are replaced, so that `a/b` and `a-b` become the same.
    """
    cleaned = _ILLEGAL.sub("-", name).lstrip(".-")
    own = not unique or (_owner(cleaned) == name and not _MARKED.match(cleaned))
    if cleaned and own and len(cleaned) <= limit:
        return cleaned
    kept = cleaned[: max(0, limit - _MARK - 1)].rstrip(".-")
    return f"{kept}-{mark(name)}" if kept else mark(name)


def _owner(tag: str) -> str:
    """The ref name that gets `tag` unchanged; `feature/a` and `feature-a` rarely both exist."""
    return _DIRECTORY.sub(r"\1/", tag)


def spelt(text: str) -> str:
    """Literal text of a template, with `-` for characters that are illegal in tags."""
    return _ILLEGAL.sub("-", text)


def mark(name: str) -> str:
    """Eight hex digits that distinguish names, with a letter, so that no date looks like one."""
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
    letter = re.search("[a-f]", digest)
    start = max(0, letter.start() + 1 - _MARK) if letter else 0
    return digest[start : start + _MARK]


def shortest(name: str) -> int:
    """The characters that `clean` needs to keep `name` distinct."""
    return min(len(name), _MARK)


def is_reserved(tag: str) -> bool:
    """Whether people expect something other than a branch under this tag: a version, `latest`."""
    return tag in _RESERVED or bool(_VERSION.match(tag))


@dataclass(frozen=True, slots=True)
class TemplatePiece:
    """`ref` marks text from a ref name: it can contain anything, and may be truncated."""

    text: str
    ref: bool = False


def fit(pieces: Sequence[TemplatePiece], *, unique: bool = True) -> str:
    """The valid tag for the pieces: text from refs is cleaned and truncated to fit, the rest is
    kept. Raises ConfigError if the rest alone is too long, or if nothing is left.
    """
    fixed = sum(len(spelt(piece.text)) for piece in pieces if not piece.ref)
    refs = [piece for piece in pieces if piece.ref]
    room = (LONGEST - fixed) // max(1, len(refs))
    if room < max((shortest(piece.text) for piece in refs), default=0):
        raise _too_long(pieces)
    text = "".join(
        clean(piece.text, limit=room, unique=unique) if piece.ref else spelt(piece.text)
        for piece in pieces
    )
    if len(text) > LONGEST:
        raise _too_long(pieces)
    if text[:1] in {"", ".", "-"}:
        raise ConfigError(
            f"{text!r} is not a valid tag: it must begin with a letter, a digit or '_'",
            code="tag-invalid",
        )
    return text


def _too_long(pieces: Sequence[TemplatePiece]) -> ConfigError:
    text = "".join(piece.text for piece in pieces)
    return ConfigError(
        f"the tag {text[:60]!r}... has {len(text)} characters, at most {LONGEST} are allowed",
        code="tag-invalid",
        hint="shorten the text around the placeholders in the rule's tags",
    )


VERSION_FIELDS = frozenset({"version", "major", "minor", "patch", "prerelease"})
FIELDS = VERSION_FIELDS | {"branch", "name", "tag", "sha", "commit", "number", "date"}
SHA_WIDTH = 12  # digits, more where they are ambiguous
_NARROWEST = 7
_FIELD = re.compile(r"\{(?P<name>[A-Za-z_-]*)(?::(?P<width>\d+))?\}")
_LITERAL = re.compile(r"[A-Za-z0-9._-]*\Z")


def fields_of(template: str) -> frozenset[str]:
    """The fields of the template."""
    return frozenset(match["name"] for match in _FIELD.finditer(template))


def check_template(template: str) -> None:
    """Raises ConfigError for an unknown field, or text that is invalid in a tag."""
    for match in _FIELD.finditer(template):
        name, width = match["name"], match["width"]
        if name not in FIELDS:
            raise ConfigError(
                f"{template}: unknown field {{{name}}}{_meant(name)}", code="tags-template"
            )
        if width and (name not in {"sha", "commit"} or not _NARROWEST <= int(width) <= 40):
            raise ConfigError(
                f"{template}: only {{sha:7}} to {{sha:40}} have a width", code="tags-template"
            )
    literal = _FIELD.sub("", template)
    if not _LITERAL.match(literal):
        raise ConfigError(
            f"{template}: a tag consists of letters, digits, '_', '.' and '-' besides its fields",
            code="tags-template",
        )
    if not template or template[0] in ".-":
        raise ConfigError(
            f"{template!r}: a tag must begin with a letter, a digit or '_'", code="tags-template"
        )


def fill(
    template: str, values: Mapping[str, TemplatePiece], sha: str, unique: int
) -> tuple[TemplatePiece, ...]:
    """The template with its fields filled in; `sha` has the requested width, but at least `unique`
    digits. Raises ConfigError for a field without a value on this event.
    """
    pieces, end = [], 0
    for match in _FIELD.finditer(template):
        pieces.append(TemplatePiece(template[end : match.start()]))
        end = match.end()
        if match["name"] in {"sha", "commit"}:
            pieces.append(TemplatePiece(sha[: max(int(match["width"] or SHA_WIDTH), unique)]))
        elif (value := values.get(match["name"])) is not None:
            pieces.append(value)
        else:
            raise ConfigError(
                f"{template}: {{{match['name']}}} has no value on this event", code="tag-no-value"
            )
    pieces.append(TemplatePiece(template[end:]))
    return tuple(piece for piece in pieces if piece.text)


def is_fixed(template: str) -> bool:
    """Whether the tag can never mean another commit: it contains the commit or a complete
    version.
    """
    fields = fields_of(template)
    return bool(fields & {"sha", "commit", "version", "tag"}) or {"major", "minor", "patch"} <= (
        fields
    )


def hides_prerelease(template: str) -> bool:
    """Whether the tag of a prerelease would look like that of the release."""
    fields, telling = fields_of(template), {"version", "prerelease", "tag", "sha", "commit"}
    return bool(fields & VERSION_FIELDS) and not fields & telling


def _meant(name: str) -> str:
    close = closest(name, sorted(FIELDS))
    return f" (did you mean {{{close}}}?)" if close else ""


Call = Callable[[tuple[str, ...], Mapping[str, str]], TemplatePiece]
_EXPRESSION = re.compile(r"\{\{\{?(?P<inner>[^{}]*)\}?\}\}")
_WORD = re.compile(
    r"""\s*(?:(?P<key>\w+)\s*=\s*)?(?:'(?P<single>[^']*)'|"(?P<double>[^"]*)"|(?P<plain>[^\s'"=]+))"""
)


def render(template: str, values: Mapping[str, TemplatePiece | Call]) -> tuple[TemplatePiece, ...]:
    """The pieces of the template with its expressions evaluated.

    Raises ConfigError for an unknown expression, with the known ones.
    """
    pieces, end = [], 0
    for match in _EXPRESSION.finditer(template):
        pieces.append(TemplatePiece(template[end : match.start()]))
        pieces.append(_evaluate(match["inner"], values, template))
        end = match.end()
    if "{{" in template[end:]:
        raise ConfigError(f"{template}: '{{{{' without '}}}}'", code="tags-template")
    pieces.append(TemplatePiece(template[end:]))
    return tuple(piece for piece in pieces if piece.text)


def text_of(template: str, values: Mapping[str, TemplatePiece | Call]) -> str:
    """The rendered template as plain text, for values that are not tags."""
    return "".join(piece.text for piece in render(template, values))


def expressions_of(template: str) -> frozenset[str]:
    """The expressions of the template."""
    return frozenset(
        match["inner"].split()[0] for match in _EXPRESSION.finditer(template) if match["inner"]
    )


def _evaluate(
    inner: str, values: Mapping[str, TemplatePiece | Call], template: str
) -> TemplatePiece:
    words = [*_WORD.finditer(inner)]
    if "".join(word.group() for word in words).strip() != inner.strip() or not words:
        raise ConfigError(f"{template}: {{{{{inner}}}}} is not an expression", code="tags-template")
    name = words[0]["plain"] or ""
    value = values.get(name)
    if value is None:
        known = ", ".join(sorted(values))
        raise ConfigError(
            f"{template}: there is no expression {name!r} here", code="tags-template", hint=known
        )
    if isinstance(value, TemplatePiece):
        return value
    literals = [word for word in words[1:] if not word["key"] and word["plain"] is None]
    arguments = tuple(_text(word) for word in literals)  # a bare word is an unknown expression
    keywords = {word["key"]: _text(word) for word in words[1:] if word["key"]}
    try:
        return value(arguments, keywords)
    except ValueError as error:
        raise ConfigError(f"{template}: {error}", code="tags-template") from error


def _text(word: re.Match[str]) -> str:
    return next(word[group] for group in ("single", "double", "plain") if word[group] is not None)
