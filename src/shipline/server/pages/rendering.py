"""Renders templates: escaped, with a strict Content-Security-Policy."""

from __future__ import annotations

import gzip
import time
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from shipline.server.http import Headers, Response

if TYPE_CHECKING:
    from jinja2 import Environment

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SAFE: Headers = [
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
]
_UNITS = ("B", "KB", "MB", "GB", "TB")
_ASSETS = {
    "style.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def page(
    template: str, *, status: int = 200, headers: Headers | None = None, **values: Any
) -> Response:
    """Render a template from `templates/`; `values` are escaped."""
    html = _templates().get_template(template).render(**values)
    return Response.of(
        status,
        [
            ("Content-Type", "text/html; charset=utf-8"),
            ("Cache-Control", "no-store"),
            *SAFE,
            *(headers or ()),
        ],
        html.encode(),
    )


def asset(name: str) -> Response | None:
    """A static file, None if there is none of that name."""
    kind = _ASSETS.get(name)
    if kind is None:
        return None
    headers = [
        ("Content-Type", kind),
        ("Content-Encoding", "gzip"),
        ("Cache-Control", "max-age=3600"),
        *SAFE,
    ]
    return Response.of(200, headers, _asset(name))


def size(number: int | None) -> str:
    """A human-readable size, in powers of 1000 as registries count."""
    if number is None:
        return "unknown"
    value, unit = float(number), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{number} B" if unit == 0 else f"{value:.3g} {_UNITS[unit]}"


def moment(seconds: float) -> str:
    """Unix time as text, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def iso(seconds: float) -> str:
    """Unix time as RFC 3339 text."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def short(digest: object) -> str:
    """An abbreviated digest."""
    algorithm, _, encoded = str(digest).partition(":")
    return f"{algorithm}:{encoded[:12]}"


@cache
def _asset(name: str) -> bytes:
    content = files("shipline.server.pages").joinpath("assets", name).read_bytes()
    return gzip.compress(content, mtime=0)


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("shipline.server.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {"size": size, "moment": moment, "iso": iso, "short": short}
    return made
