"""Templates to bytes, and the files that pages load; the headers that both are served with."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from shipline import __version__
from shipline.pages import content
from shipline.units import counted

if TYPE_CHECKING:
    from jinja2 import Environment
    from jinja2.runtime import Context

SECURITY_HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
"""What every page and asset is served with: nothing from elsewhere, nothing inline, no frames."""

_KINDS = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_ASSETS = "/-/assets/"


@dataclass(frozen=True, slots=True)
class Link:
    """An entry of the navigation."""

    text: str
    href: str
    current: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """What is around every page: pass it to `render` as `frame`.

    `made` is when the page is made, in Unix time: ages count from it. `account` is who looks,
    `login` where to log in, both empty where nobody can. `token` stands in every form against
    cross-site requests. `live` is the path of the page's server-sent events. A `standalone` page
    has its stylesheet inside and no script.
    """

    host: str
    made: float
    home: str = "/"
    navigation: tuple[Link, ...] = ()
    account: str = ""
    login: str = ""
    note: str = ""
    token: str = ""
    live: str = ""
    api: str = ""
    standalone: bool = False
    version: str = __version__


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that pages load, gzipped; `tag` is its strong ETag, with quotes."""

    content_type: str
    content: bytes
    tag: str

    def headers(self, fingerprint: str) -> list[tuple[str, str]]:
        """To serve it with, for a request that has `fingerprint` as its parameter `v`."""
        known = fingerprint == self.tag.strip('"')
        return [
            ("Content-Type", self.content_type),
            ("Content-Encoding", "gzip"),
            ("ETag", self.tag),
            ("Cache-Control", "max-age=31536000, immutable" if known else "no-cache"),
            *SECURITY_HEADERS,
        ]


def render(template: str, **values: Any) -> bytes:
    """A page of `templates/`, UTF-8. `values` are escaped; one that is missing raises."""
    return _environment().get_template(template).render(**values).encode()


def render_part(template: str, macro: str, values: Mapping[str, Any], **context: Any) -> str:
    """What one macro of a template makes, for a change that is sent to an open page;
    `context` are the values that the template itself uses, such as `frame`.
    """
    module = _environment().get_template(template).make_module(context)
    return str(getattr(module, macro)(**values))


@cache
def asset(name: str) -> Asset | None:
    """A file of `assets/`, None if there is none of that name."""
    content_type = _KINDS.get(name.rpartition(".")[2])
    file = files("shipline.pages").joinpath("assets", name)
    if content_type is None or "/" in name or not file.is_file():
        return None
    raw = file.read_bytes()
    tag = f'"{hashlib.sha256(raw).hexdigest()[:16]}"'
    return Asset(content_type, gzip.compress(raw, mtime=0), tag)


def _asset_path(name: str) -> str:
    found = asset(name)
    if found is None:
        raise LookupError(f"there is no asset {name}")
    return f"{_ASSETS}{name}?v={found.tag.strip(chr(34))}"


def _stylesheet() -> str:
    return files("shipline.pages").joinpath("assets", "style.css").read_text()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
    from markupsafe import Markup

    @pass_context
    def age(context: Context, moment: content.Moment) -> str:
        return content.age(moment, context["frame"].made)

    @pass_context
    def absolute(context: Context, moment: content.Moment) -> str:
        return content.absolute(moment, context["frame"].made)

    def coded(text: object) -> Markup:
        """Text in which commands stand between backticks, as in messages."""
        parts = str(text).split("`")
        return Markup().join(
            Markup("<code>{}</code>").format(part) if number % 2 else part
            for number, part in enumerate(parts)
        )

    made = Environment(
        loader=PackageLoader("shipline.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "age": age,
        "absolute": absolute,
        "exact": content.exact,
        "span": content.span,
        "duration": content.duration,
        "tick": content.tick,
        "size": content.size,
        "count": content.count,
        "counted": counted,
        "short": content.short,
        "coded": coded,
    }
    made.globals |= {
        "asset": _asset_path,
        "axis_end": content.axis,
        "percent": content.percent,
        "polyline": content.polyline,
        "stylesheet": lambda: Markup(_stylesheet()),
    }
    return made
