"""A rendered tag in pieces: what may be cleaned and cut, and what must stay whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shipline.errors import ConfigError
from shipline.policy.tags import names


@dataclass(frozen=True, slots=True)
class Piece:
    """`ref` marks text that comes from a ref name: it may hold anything, and may be shortened."""

    text: str
    ref: bool = False


def fit(pieces: Sequence[Piece], *, unique: bool = True) -> str:
    """The legal tag for the pieces: text from refs is cleaned and cut to fit, the rest is whole.

    Raises ConfigError where the rest alone is too long, or is nothing.
    """
    fixed = sum(len(names.spelt(piece.text)) for piece in pieces if not piece.ref)
    refs = [piece for piece in pieces if piece.ref]
    room = (names.LONGEST - fixed) // max(1, len(refs))
    if room < max((names.shortest(piece.text) for piece in refs), default=0):
        raise _too_long(pieces)
    text = "".join(
        names.clean(piece.text, room=room, unique=unique) if piece.ref else names.spelt(piece.text)
        for piece in pieces
    )
    if len(text) > names.LONGEST:
        raise _too_long(pieces)
    if text[:1] in {"", ".", "-"}:
        raise ConfigError(f"{text!r} is not a tag: it must begin with a letter, digit or '_'")
    return text


def _too_long(pieces: Sequence[Piece]) -> ConfigError:
    text = "".join(piece.text for piece in pieces)
    return ConfigError(
        f"the tag {text[:60]!r}... has {len(text)} characters, at most {names.LONGEST} are allowed",
        hint="shorten the text around the placeholders in the rule's tags",
    )
