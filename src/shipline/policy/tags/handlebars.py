"""The expressions of docker/metadata-action: `{{version}}`, `{{date 'YYYYMMDD' tz='UTC'}}`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from shipline.errors import ConfigError
from shipline.policy.tags.pieces import Piece

Call = Callable[[tuple[str, ...], Mapping[str, str]], Piece]
_EXPRESSION = re.compile(r"\{\{\{?(?P<inner>[^{}]*)\}?\}\}")
_WORD = re.compile(
    r"""\s*(?:(?P<key>\w+)\s*=\s*)?(?:'(?P<single>[^']*)'|"(?P<double>[^"]*)"|(?P<plain>[^\s'"=]+))"""
)


def render(template: str, values: Mapping[str, Piece | Call]) -> tuple[Piece, ...]:
    """The pieces of the template with its expressions evaluated.

    Raises ConfigError for an expression that is not known, naming those that are.
    """
    pieces, end = [], 0
    for found in _EXPRESSION.finditer(template):
        pieces.append(Piece(template[end : found.start()]))
        pieces.append(_evaluate(found["inner"], values, template))
        end = found.end()
    if "{{" in template[end:]:
        raise ConfigError(f"{template}: '{{{{' without '}}}}'")
    pieces.append(Piece(template[end:]))
    return tuple(piece for piece in pieces if piece.text)


def text_of(template: str, values: Mapping[str, Piece | Call]) -> str:
    """The rendered template as plain text, for what is no tag."""
    return "".join(piece.text for piece in render(template, values))


def expressions_of(template: str) -> frozenset[str]:
    """The names of the expressions in the template."""
    return frozenset(
        found["inner"].split()[0] for found in _EXPRESSION.finditer(template) if found["inner"]
    )


def _evaluate(inner: str, values: Mapping[str, Piece | Call], template: str) -> Piece:
    words = [*_WORD.finditer(inner)]
    if "".join(word.group() for word in words).strip() != inner.strip() or not words:
        raise ConfigError(f"{template}: {{{{{inner}}}}} is not an expression")
    name = words[0]["plain"] or ""
    value = values.get(name)
    if value is None:
        known = ", ".join(sorted(values))
        raise ConfigError(f"{template}: there is no expression {name!r} here", hint=known)
    if isinstance(value, Piece):
        return value
    arguments = tuple(_text(word) for word in words[1:] if not word["key"])
    named = {word["key"]: _text(word) for word in words[1:] if word["key"]}
    try:
        return value(arguments, named)
    except ValueError as error:
        raise ConfigError(f"{template}: {error}") from error


def _text(word: re.Match[str]) -> str:
    return next(word[group] for group in ("single", "double", "plain") if word[group] is not None)
