"""Licences as package databases write them, as expressions of SPDX (SPDX 2.3, annex D)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from license_expression import Licensing

REFERENCE = "LicenseRef-"
_LONGEST = 500  # characters: longer texts are licences themselves, not names of one

_ALIASES = {
    "expat": "MIT",
    "mit license": "MIT",
    "the mit license": "MIT",
    "mit/x11": "MIT",
    "bsd 2-clause": "BSD-2-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "new bsd license": "BSD-3-Clause",
    "simplified bsd": "BSD-2-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd-3-clause license": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "apache software license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache-2": "Apache-2.0",
    "apache2": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "asl 2.0": "Apache-2.0",
    "isc license (iscl)": "ISC",
    "isc license": "ISC",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "psf": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
    "zlib/libpng license": "Zlib",
    "artistic": "Artistic-1.0-Perl",
    "artistic-2": "Artistic-2.0",
    "gnu general public license v2 (gplv2)": "GPL-2.0-only",
    "gnu general public license v2 or later (gplv2+)": "GPL-2.0-or-later",
    "gnu general public license v3 (gplv3)": "GPL-3.0-only",
    "gnu general public license v3 or later (gplv3+)": "GPL-3.0-or-later",
    "gnu lesser general public license v2 or later (lgplv2+)": "LGPL-2.0-or-later",
    "gnu lesser general public license v3 (lgplv3)": "LGPL-3.0-only",
    "gnu lesser general public license v3 or later (lgplv3+)": "LGPL-3.0-or-later",
}
"""Names without ambiguity that Debian, Fedora, and the classifiers of Python use."""

_GNU = re.compile(r"(A|L)?GPL[ -]?v?(\d)(?:\.(\d))?(?:\.0)?(\+|-only|-or-later)?", re.IGNORECASE)
_GFDL = re.compile(r"GFDL(?:-NIV)?-?v?(1\.\d)(\+)?", re.IGNORECASE)


@lru_cache(4096)
def expression(text: str) -> str:
    """The licence as an SPDX expression, with `LicenseRef-` for what SPDX does not list; empty for
    none, and for the text of a licence.
    """
    text = " ".join(text.replace(",", " ").split()) if text.lower() not in _ALIASES else text
    if not text or len(text) > _LONGEST or text.upper() in ("NONE", "NOASSERTION", "UNKNOWN"):
        return ""
    if known := _known(text):
        return known
    from license_expression import ExpressionError

    try:
        return _rendered(_licensing().parse(text))
    except (ExpressionError, IndexError, AssertionError, RecursionError):  # its own bugs, too
        return _reference(text)


def joined(texts: Iterable[str]) -> str:
    """All the licences, each once."""
    terms: dict[str, None] = {}
    found = [*dict.fromkeys(filter(None, map(expression, texts)))]
    for one in found:
        if "(" in one or " OR " in one:
            terms[f"({one})" if " OR " in one and len(found) > 1 else one] = None
        else:
            terms.update(dict.fromkeys(one.split(" AND ")))
    return " AND ".join(terms)


def references(text: str) -> list[str]:
    """The identifiers in an expression that SPDX does not list."""
    return re.findall(rf"{REFERENCE}[A-Za-z0-9.-]+", text)


def _rendered(tree: Any) -> str:
    from license_expression import LicenseWithExceptionSymbol

    licensing = _licensing()
    if isinstance(tree, licensing.AND | licensing.OR):
        word = " AND " if isinstance(tree, licensing.AND) else " OR "
        parts = [(one, _rendered(one)) for one in tree.args]
        return word.join(
            f"({text})" if isinstance(one, licensing.AND | licensing.OR) else text
            for one, text in parts
        )
    if isinstance(tree, LicenseWithExceptionSymbol):
        license = _known(tree.license_symbol.key) or _reference(tree.license_symbol.key)
        exception = tree.exception_symbol.key.removesuffix(" exception").removesuffix(" Exception")
        if known := _exceptions().get(exception.lower()):
            return f"{license} WITH {known}"
        return f"({license} AND {_reference(f'with-{exception}')})"
    return _known(tree.key) or _reference(tree.key)


def _known(name: str) -> str:
    """The identifier of SPDX; empty for none."""
    lower = name.lower()
    if name.startswith(REFERENCE):
        return _reference(name.removeprefix(REFERENCE))
    if found := _ALIASES.get(lower) or _identifiers().get(lower):
        return found
    if match := _GNU.fullmatch(name):
        kind, major, minor, later = match.groups()
        suffix = "or-later" if later in ("+", "-or-later") else "only"
        found = f"{(kind or '').upper()}GPL-{major}.{minor or 0}-{suffix}"
    elif match := _GFDL.fullmatch(name):
        found = f"GFDL-{match[1]}-{'or-later' if match[2] else 'only'}"
    else:
        found = name.removesuffix("+")
    identifier = _identifiers().get(found.lower(), "")
    return f"{identifier}+" if identifier and name == f"{found}+" else identifier


def _reference(name: str) -> str:
    return REFERENCE + (re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-") or "unknown")


@cache
def _licensing() -> Licensing:
    from license_expression import Licensing

    return Licensing()


@cache
def _listed() -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The identifiers of SPDX by any name, in lower case: licences, and exceptions."""
    from license_expression import get_license_index

    licences: dict[str, str] = {}
    exceptions: dict[str, str] = {}
    for one in get_license_index():
        key = one.get("spdx_license_key") or ""
        if key and not key.startswith(REFERENCE):
            place = exceptions if one.get("is_exception") else licences
            for name in (key, *one.get("other_spdx_license_keys", ())):
                place[name.lower()] = key
    return licences, exceptions


def _identifiers() -> Mapping[str, str]:
    return _listed()[0]


def _exceptions() -> Mapping[str, str]:
    return _listed()[1]
