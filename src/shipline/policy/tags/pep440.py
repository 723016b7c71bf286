"""Versions of Python packages (PEP 440)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

_PEP440 = re.compile(
    r"""\s*v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)
    (?:[-_.]?(?P<pre>alpha|beta|preview|pre|a|b|c|rc)[-_.]?(?P<pre_number>\d+)?)?
    (?:-(?P<implicit_post>\d+)|[-_.]?(?P<post>post|rev|r)[-_.]?(?P<post_number>\d+)?)?
    (?:[-_.]?(?P<dev>dev)[-_.]?(?P<dev_number>\d+)?)?
    (?:\+(?P<local>[a-z0-9]+(?:[-_.][a-z0-9]+)*))?\s*""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_SPELLINGS = {"alpha": "a", "beta": "b", "c": "rc", "pre": "rc", "preview": "rc"}


@dataclass(frozen=True, slots=True)
class Pep440:
    """A version in its normal form; `final` is False for pre, post and development releases."""

    text: str
    release: tuple[int, ...]
    final: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for what PEP 440 does not allow."""
        found = _PEP440.fullmatch(text)
        if not found:
            raise ValueError(f"not a PEP 440 version: {text!r}")
        release = tuple(map(int, found["release"].split(".")))
        suffix = _pre(found) + _post(found) + _dev(found)
        epoch = f"{int(found['epoch'])}!" if found["epoch"] and int(found["epoch"]) else ""
        local = "+" + re.sub("[-_]", ".", found["local"].lower()) if found["local"] else ""
        return cls(f"{epoch}{'.'.join(map(str, release))}{suffix}{local}", release, not suffix)

    def part(self, index: int) -> int:
        """Major, minor and patch are 0, 1 and 2; parts that are not written are zero."""
        return self.release[index] if index < len(self.release) else 0


def _pre(found: re.Match[str]) -> str:
    if not found["pre"]:
        return ""
    name = found["pre"].lower()
    return f"{_SPELLINGS.get(name, name)}{int(found['pre_number'] or 0)}"


def _post(found: re.Match[str]) -> str:
    if not (found["post"] or found["implicit_post"]):
        return ""
    return f".post{int(found['implicit_post'] or found['post_number'] or 0)}"


def _dev(found: re.Match[str]) -> str:
    return f".dev{int(found['dev_number'] or 0)}" if found["dev"] else ""
