"""Origins and URLs, parsed strictly, because servers send them too."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import quote, urlencode, urljoin, urlsplit

from shipline.errors import RegistryError

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?\.?\Z|[0-9a-f:.]*:[0-9a-f:.]*\Z")
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
_TARGET = "/?&=%:@!$'()*+,;~-._[]"
_LONGEST = 16 << 10  # bytes


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """Scheme, host and port (RFC 6454): credentials are bound to one."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """`host` or `host:port`, without the scheme's default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True, slots=True)
class Url:
    """`target` is path and query as on the request line."""

    origin: Origin
    target: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises RegistryError for anything but http(s)://host[:port][/path][?query]."""
        if len(text) > _LONGEST or _UNSAFE.search(text):
            raise _bad(text, "it is too long, or has spaces or control characters")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise _bad(text, str(error)) from None
        if parts.scheme not in _PORTS:
            raise _bad(text, "the scheme is not http or https")
        if "@" in parts.netloc:
            raise _bad(text, "it contains credentials")
        if not _HOST.match(host) or port == 0:
            raise _bad(text, "the host is not a host name")
        target = quote(parts.path or "/", _TARGET)
        if parts.query:
            target += "?" + quote(parts.query, _TARGET)
        return cls(Origin(parts.scheme, host, port or _PORTS[parts.scheme]), target)

    def join(self, location: str) -> Self:
        """`location`, absolute or relative, resolved against this URL (RFC 3986, section 5)."""
        if _UNSAFE.search(location):
            raise _bad(location, "it has spaces or control characters")
        return self.parse(urljoin(str(self), location))

    def with_query(self, *parameters: tuple[str, str]) -> Self:
        """With these query parameters appended."""
        if not parameters:
            return self
        mark = "&" if "?" in self.target else "?"
        return replace(self, target=self.target + mark + urlencode(parameters, safe=":/"))

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def __str__(self) -> str:
        return f"{self.origin}{self.target}"


def _bad(text: str, reason: str) -> RegistryError:
    shown = text[:120].split("?")[0]
    return RegistryError(f"not a usable URL: {shown!r}: {reason}", host="")
