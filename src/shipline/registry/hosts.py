"""What is known about hosts before the first request: origins, mirrors, certificates."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shipline.errors import RegistryError, UsageError
from shipline.net import is_loopback
from shipline.registry.origin import Origin, Url
from shipline.registry.proxies import Proxies

_HUB = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
_CERTIFICATES = Path("/etc/docker/certs.d")


def _nothing() -> Mapping[str, tuple[str, ...]]:
    return types.MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place that serves a registry's content.

    `host` is the name under which its credentials are kept, `prefix` stands before each
    repository name, `mirror` tells that content is only read from here.
    """

    origin: Origin
    host: str
    prefix: str = ""
    mirror: bool = False


@dataclass(frozen=True, slots=True)
class Trust:
    """Files of PEM: additional authorities, and the certificate that this side shows."""

    authorities: tuple[Path, ...] = ()
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class HostSettings:
    """How hosts are reached.

    `insecure` are hosts spoken to in plain http, as loopback is unless `secure` names it or it
    has a directory of certificates; `ca` are trusted everywhere besides the system's;
    `certificates` is the directory laid out as docker's certs.d; `mirrors` are base URLs per
    host, tried in order before the host itself; `token_hosts` are further hosts per host that
    may see its credentials; with `strict` no others may, and no request follows a server's word
    to a private address: for programs that fetch on behalf of others.
    """

    insecure: frozenset[str] = frozenset()
    secure: frozenset[str] = frozenset()
    ca: tuple[Path, ...] = ()
    certificates: Path = _CERTIFICATES
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=_nothing)
    proxies: Proxies = field(default_factory=Proxies)
    token_hosts: Mapping[str, tuple[str, ...]] = field(default_factory=_nothing)
    strict: bool = False

    def endpoint(self, host: str) -> Endpoint:
        """The registry itself: where content is pushed to and where tags are true."""
        authority = _HUB.get(host, host)
        scheme = "http" if self._plain(authority) else "https"
        return Endpoint(Url.parse(f"{scheme}://{authority.lower()}/").origin, host)

    def endpoints(self, host: str) -> tuple[Endpoint, ...]:
        """Where content of the registry may be read, in order; the registry itself is last."""
        return (*map(_mirror, self.mirrors.get(host, ())), self.endpoint(host))

    def trust(self, origin: Origin) -> Trust:
        """What to believe at `origin`, and who to be there."""
        place = self.certificates / origin.authority
        if not place.is_dir():
            return Trust(self.ca)
        found = sorted(place.iterdir())
        keys = {path.stem: path for path in found if path.suffix == ".key"}
        certificate = next((p for p in found if p.suffix == ".cert" and p.stem in keys), None)
        return Trust(
            (*self.ca, *(path for path in found if path.suffix == ".crt")),
            certificate,
            keys[certificate.stem] if certificate else None,
        )

    def _plain(self, authority: str) -> bool:
        if authority in self.secure:
            return False
        if authority in self.insecure:
            return True
        host = Url.parse(f"http://{authority.lower()}/").origin.host
        return is_loopback(host) and not (self.certificates / authority).is_dir()


def parse_mirrors(text: str) -> Mapping[str, tuple[str, ...]]:
    """Read `docker.io=http://127.0.0.1:5000,quay.io=https://mirror.lan/quay`.

    A host may stand several times: its mirrors are tried in that order. Raises UsageError.
    """
    found: dict[str, tuple[str, ...]] = {}
    for entry in filter(None, (piece.strip() for piece in text.split(","))):
        host, equals, url = (part.strip() for part in entry.partition("="))
        try:
            if not host or not equals:
                raise RegistryError("it is not HOST=URL", host="")
            _mirror(url)
        except RegistryError as error:
            raise UsageError(
                f"not a mirror: {entry!r}: {error.message}",
                hint="write HOST=URL, as in docker.io=https://mirror.example.com",
            ) from None
        found[host] = (*found.get(host, ()), url)
    return types.MappingProxyType(found)


def settings_from(
    environment: Mapping[str, str],
    *,
    insecure: Iterable[str] = (),
    secure: Iterable[str] = (),
    ca: Iterable[Path] = (),
) -> HostSettings:
    """Settings of a command line: flags and SHIPLINE_MIRRORS, SSL_CERT_FILE, *_PROXY, NO_PROXY."""
    system = environment.get("SSL_CERT_FILE")
    return HostSettings(
        insecure=frozenset(insecure),
        secure=frozenset(secure),
        ca=(*ca, *((Path(system),) if system else ())),
        mirrors=parse_mirrors(environment.get("SHIPLINE_MIRRORS", "")),
        proxies=Proxies.from_environment(environment),
    )


def _mirror(text: str) -> Endpoint:
    url = Url.parse(text)
    if "?" in url.target:
        raise RegistryError("a mirror has no query", host=url.origin.host)
    path = url.path.strip("/").removeprefix("v2").strip("/")
    return Endpoint(url.origin, url.origin.authority, f"{path}/" if path else "", mirror=True)
