"""Image tags out of ref names: legal (distribution specification, "Pull"), and never two for one.

Each tag belongs to one name, which gets it without more: `feature-login` to `feature/login`, any
other one to the name that is spelt like it. All other names are cleaned and end in the beginning of
the SHA-256 of the whole name, and so does a legal one that looks like that: thus two never become
one, and none depends on which other refs there are just now.
"""

from __future__ import annotations

import hashlib
import re

LONGEST = 128  # characters of a tag
_MARK = 8  # hexadecimal digits
_ILLEGAL = re.compile(r"[^A-Za-z0-9._-]+")
_MARKED = re.compile(rf"(?:.*-)?(?=\d*[a-f])[0-9a-f]{{{_MARK}}}\Z", re.DOTALL)
_VERSION = re.compile(r"v?\d+(?:\.\d+){0,2}(?:[-+.].*)?\Z")
_DIRECTORY = re.compile(r"\A(feature|feat|bugfix|hotfix|releases?)-(?=.)")
_RESERVED = {"latest", "edge", "nightly"}


def clean(name: str, *, room: int = LONGEST, unique: bool = True) -> str:
    """`name` as (part of) a tag of at most `room` characters.

    Without `unique` only what must change is changed, so that `a/b` and `a-b` become the same.
    """
    cleaned = _ILLEGAL.sub("-", name).lstrip(".-")
    own = not unique or (_owner(cleaned) == name and not _MARKED.match(cleaned))
    if cleaned and own and len(cleaned) <= room:
        return cleaned
    kept = cleaned[: max(0, room - _MARK - 1)].rstrip(".-")
    return f"{kept}-{mark(name)}" if kept else mark(name)


def _owner(tag: str) -> str:
    """The name that gets `tag` itself; nearly nobody uses both `feature/a` and `feature-a`."""
    return _DIRECTORY.sub(r"\1/", tag)


def spelt(text: str) -> str:
    """Text that somebody wrote into a template, with `-` for what no tag can hold."""
    return _ILLEGAL.sub("-", text)


def mark(name: str) -> str:
    """Eight digits that tell names apart, a letter among them: a date is no mark."""
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
    letter = re.search("[a-f]", digest)
    start = max(0, letter.start() + 1 - _MARK) if letter else 0
    return digest[start : start + _MARK]


def shortest(name: str) -> int:
    """How much room `clean` needs to tell `name` from others."""
    return min(len(name), _MARK)


def is_reserved(tag: str) -> bool:
    """Whether people expect something else under this tag than a branch: a version, `latest`."""
    return tag in _RESERVED or bool(_VERSION.match(tag))
