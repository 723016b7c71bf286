"""What single registries do against the specification, as data.

What can be tolerated everywhere is tolerated everywhere, in the code that meets it: a PATCH
answered with 201 (Amazon), a PUT without Location (Amazon), a mount that fails, error bodies of
any shape. Here is only what must be known beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quirks:
    """`resumes` is False where a second PATCH loses bytes; `mounts` where it never works;
    `referrers` is False where the API answers with something else; `chunk` is the most that one
    numbered chunk may have, in bytes; `page` how many tags may be asked for at once."""

    resumes: bool = True
    mounts: bool = True
    referrers: bool = True
    chunk: int = 32 << 20
    page: int = 1000


_NONE = Quirks()
_BY_SUFFIX = {
    "amazonaws.com": Quirks(resumes=False),
    "ghcr.io": Quirks(chunk=4 << 20, referrers=False),
}


def quirks_of(host: str) -> Quirks:
    """What is known about `host`, a name without port: exact, or a whole parent domain."""
    while host:
        if host in _BY_SUFFIX:
            return _BY_SUFFIX[host]
        host = host.partition(".")[2]
    return _NONE
