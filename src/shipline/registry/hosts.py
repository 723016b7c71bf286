"""How to reach a host: mirrors, certificates, proxies, and which addresses its redirects and token
realms may lead to.
"""

from __future__ import annotations

import enum
import os
import re
import socket
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

from msgspec import Struct, field

from shipline.errors import AuthError, RegistryError, UsageError
from shipline.home import state_directory
from shipline.net import (
    embedded_address,
    is_link_local,
    is_loopback,
    is_public,
    read_address,
    split_url,
)
from shipline.registry.request import Origin, Url

if TYPE_CHECKING:
    from shipline.registry.shared import SharedCache


class Proxies(Struct, frozen=True):
    """Proxy URLs per scheme, empty for none; `no_proxy` lists hosts to reach directly."""

    http: str = ""
    https: str = ""
    no_proxy: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY; lower case wins.

        Upper-case HTTP_PROXY is ignored in CGI, where clients control it (httpoxy).
        """

        def get(name: str) -> str:
            return environment.get(name.lower()) or environment.get(name) or ""

        all_proxy = get("ALL_PROXY")
        in_cgi = "REQUEST_METHOD" in environment
        http = environment.get("http_proxy", "") if in_cgi else get("HTTP_PROXY")
        hosts = (entry.strip().lower() for entry in get("NO_PROXY").split(","))
        return cls(
            http or all_proxy,
            get("HTTPS_PROXY") or all_proxy,
            tuple(entry for entry in hosts if entry),
        )

    def of(self, origin: Origin) -> str:
        """The URL of the proxy for `origin`, empty for a direct connection; loopback is direct.

        Raises UsageError for one that is not a URL.
        """
        url = self.https if origin.scheme == "https" else self.http
        if not url or is_loopback(origin.host) or self._excepted(origin):
            return ""
        proxy = url if "://" in url else f"http://{url}"
        try:
            split_url(proxy)
        except UsageError as error:
            error.name_part("the proxy in the environment")
            raise
        return proxy

    def _excepted(self, origin: Origin) -> bool:
        return any(_matches(entry, origin) for entry in self.no_proxy)


def _matches(entry: str, origin: Origin) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        return _in_network(origin.host, entry)
    name, colon, port = entry.rpartition(":")
    if colon and port.isdigit() and "]" not in port and name.count(":") == 0:
        if int(port) != origin.port:
            return False
        entry = name
    entry = entry.strip("[]").removeprefix("*").lstrip(".")
    return origin.host == entry or origin.host.endswith("." + entry)


def _in_network(host: str, network: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


_HUB_NAME = "docker.io"
_HUB = {_HUB_NAME: "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
_PROBE_S = 2.0
_TLS = (b"\x16", b"\x15")  # first byte of handshake and alert records
_CLIENT_HELLO = bytes.fromhex(  # of TLS 1.2 and 1.3 (RFC 8446, 4.1.2); ssl is slow to load
    f"160301 006a 01 000066 0303 {bytes(32).hex()} 00"
    " 0010 130113021303c02bc02fc02cc030009c 01 00 002d"  # ciphers, no compression, extensions
    " 000a 0006 0004 001d0017 000b 0002 0100"  # groups and their points
    " 000d 000a 0008 0403080404010807"  # signatures
    " 002b 0005 04 03040303 0033 0002 0000"  # versions, no key yet
)
_CERTIFICATES = Path("/etc/docker/certs.d")
_OTHER_CERTIFICATES = Path("/etc/containers/certs.d")


def _empty() -> Mapping[str, tuple[str, ...]]:
    return types.MappingProxyType({})


class Endpoint(Struct, frozen=True):
    """A server of a registry's content.

    Credentials are stored under `host`; `prefix` is prepended to repository names. A mirror has the
    host whose content it serves as `mirrored`; with `digest_only` its tags are not asked for.
    """

    origin: Origin
    host: str
    prefix: str = ""
    mirrored: str = ""
    digest_only: bool = False

    @property
    def base(self) -> str:
        """The URL that repository names follow, without `/v2`."""
        return f"{self.origin}/{self.prefix}".rstrip("/")


class TlsTrust(Struct, frozen=True):
    """PEM files: additional CAs, and the client certificate with its key."""

    authorities: tuple[Path, ...] = ()
    certificate: Path | None = None
    key: Path | None = None


def _never(host: str, port: int) -> bool:
    return False


class HostSettings(Struct, frozen=True):
    """How hosts are reached.

    `insecure` hosts use plain HTTP, as does loopback unless it is in `secure`, has a directory of
    certificates, or `probe` (host, port) finds TLS there; `ca` files are trusted in addition to the
    system's; `client_certificate` with its key is presented where `certificates` has no directory
    or `more_certificates` have a directory of the host; they are laid out like docker's certs.d;
    `mirrors` are base URLs per host,
    tried before the host itself, the nearest first, and `measurements` is the file that keeps how
    near they are; `token_hosts` lists other hosts that may receive a host's credentials; with
    `strict`, none but these may. With `for_others`, links of a public server are followed to public
    addresses only, and those of any other but a loopback one not to loopback: for programs that
    fetch on behalf of others. `connect_s` and `read_s` are the longest waits for a
    connection and for bytes, in seconds; at mirrors `mirror_connect_s` and `mirror_read_s`.
    `shared` keeps tokens and what is known of repositories for other processes.
    """

    insecure: frozenset[str] = frozenset()
    secure: frozenset[str] = frozenset()
    ca: tuple[Path, ...] = ()
    client_certificate: Path | None = None
    client_key: Path | None = None
    certificates: Path = _CERTIFICATES
    more_certificates: tuple[Path, ...] = ()
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=_empty)
    measurements: Path | None = None
    shared: SharedCache | None = None
    proxies: Proxies = field(default_factory=Proxies)
    token_hosts: Mapping[str, tuple[str, ...]] = field(default_factory=_empty)
    strict: bool = False
    for_others: bool = False
    probe: Callable[[str, int], bool] = _never
    connect_s: float = 10.0
    read_s: float = 60.0
    mirror_connect_s: float = 2.0
    mirror_read_s: float = 10.0

    def endpoint(self, host: str) -> Endpoint:
        """The registry itself: content is pushed there, and its tags are authoritative."""
        authority = _HUB.get(host, host)
        scheme = "http" if self._is_plain_http(authority) else "https"
        return Endpoint(Url.parse(f"{scheme}://{authority.lower()}/").origin, host)

    def endpoints(self, host: str) -> tuple[Endpoint, ...]:
        """The endpoints to read from, as configured; the registry itself is last."""
        name = _HUB_NAME if host in (*_HUB, *_HUB.values()) else host
        urls = dict.fromkeys(self.mirrors.get(name, ()))
        return (*(_mirror(name, url) for url in urls), self.endpoint(host))

    def trust(self, origin: Origin) -> TlsTrust:
        """The CAs to trust and the client certificate to present at `origin`."""
        directories = self._directories(origin.authority)
        if not directories:
            return TlsTrust(self.ca, self.client_certificate, self.client_key)
        files = [path for directory in directories for path in sorted(directory.iterdir())]
        keys = {path.stem: path for path in files if path.suffix == ".key"}
        certificate = next((p for p in files if p.suffix == ".cert" and p.stem in keys), None)
        return TlsTrust(
            (*self.ca, *(path for path in files if path.suffix == ".crt")),
            certificate,
            keys[certificate.stem] if certificate else None,
        )

    def _directories(self, authority: str) -> list[Path]:
        """The directories with certificates of a host."""
        every = (self.certificates, *self.more_certificates)
        return [path for one in every if (path := one / authority).is_dir()]

    def _is_plain_http(self, authority: str) -> bool:
        if authority in self.secure:
            return False
        if authority in self.insecure:
            return True
        origin = Url.parse(f"https://{authority.lower()}/").origin
        if not is_loopback(origin.host) or self._directories(authority):
            return False
        return not self.probe(origin.host, origin.port)


_DIGEST_ONLY = "#digest-only"
_MIRROR_HINT = (
    "write [HOST=]URL, as in https://mirror.example.com or ghcr.io=https://mirror.example.com"
)


def parse_mirrors(entries: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """Base URLs by host, from entries such as `https://mirror.example`, for Docker Hub as in
    docker's `registry-mirrors`, and `quay.io=https://mirror.example/quay` for another host.

    A URL that ends in `#digest-only` is asked for digests, never for tags. Raises UsageError.
    """
    mirrors: dict[str, tuple[str, ...]] = {}
    for entry in filter(None, (piece.strip() for piece in entries)):
        host, equals, url = (part.strip() for part in entry.partition("="))
        if not equals or "://" in host:
            host, url = _HUB_NAME, entry
        try:
            if not re.fullmatch(r"[A-Za-z0-9._:\[\]-]+", host):
                raise RegistryError(f"{host!r} is not a host", code="reference-invalid", host="")
            _mirror(host, url)
        except RegistryError as error:
            raise UsageError(
                f"not a mirror: {error.message}", code="mirror-invalid", hint=_MIRROR_HINT
            ) from None
        mirrors[host] = (*mirrors.get(host, ()), url)
    return types.MappingProxyType(mirrors)


def settings_from(
    environment: Mapping[str, str],
    *,
    insecure: Iterable[str] = (),
    secure: Iterable[str] = (),
    ca: Iterable[Path] = (),
) -> HostSettings:
    """Settings from arguments and the environment: SHIPLINE_INSECURE (comma-separated hosts),
    SHIPLINE_CA (files, separated as in PATH), SHIPLINE_MIRRORS, SHIPLINE_CACHE, SSL_CERT_FILE,
    *_PROXY, NO_PROXY. Raises UsageError, ConfigError.

    Loopback registries are probed for TLS.
    """
    hosts = (host.strip() for host in environment.get("SHIPLINE_INSECURE", "").split(","))
    files = environment.get("SHIPLINE_CA", "").split(os.pathsep)
    system = environment.get("SSL_CERT_FILE", "")
    return HostSettings(
        insecure=frozenset({*insecure, *filter(None, hosts)}),
        secure=frozenset(secure),
        ca=(*ca, *map(Path, filter(None, (*files, system)))),
        more_certificates=tuple(_other_certificates(environment)),
        probe=cache(speaks_tls),
        mirrors=parse_mirrors(environment.get("SHIPLINE_MIRRORS", "").split(",")),
        measurements=state_directory() / "mirrors.json",
        proxies=Proxies.from_environment(environment),
        shared=_shared(environment),
    )


def _other_certificates(environment: Mapping[str, str]) -> Iterator[Path]:
    """Where podman and skopeo, and docker without root, have certificates of registries."""
    home = environment.get("HOME")
    if config := environment.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else ""):
        yield from (Path(config) / name / "certs.d" for name in ("containers", "docker"))
    yield _OTHER_CERTIFICATES


def _shared(environment: Mapping[str, str]) -> SharedCache | None:
    if not environment.get("SHIPLINE_CACHE"):
        return None
    from shipline.registry.shared import shared_cache  # loads what most commands do not need

    return shared_cache(environment, state_directory())


def lookup_name(host: str) -> str | bytes:
    """`host` for the resolver; a str would load the tables of international names."""
    return host.encode() if host.isascii() else host


def speaks_tls(host: str, port: int) -> bool:
    """Whether the server answers a TLS ClientHello with a TLS record."""
    try:
        address = (lookup_name(host), port)
        with socket.create_connection(address, _PROBE_S) as sock:  # type: ignore[arg-type]
            sock.sendall(_CLIENT_HELLO + b"\r\n\r\n")  # ends a bad request for a plain HTTP server
            return sock.recv(1) in _TLS
    except OSError:
        return False


def _mirror(host: str, text: str) -> Endpoint:
    url = Url.parse(text.removesuffix(_DIGEST_ONLY))
    if "?" in url.target or "#" in text.removesuffix(_DIGEST_ONLY):
        raise RegistryError(
            f"{url.origin} has a query or fragment", code="mirror-invalid", host=url.origin.host
        )
    path = re.sub(r"^v2(/|$)", "", url.path.strip("/")).strip("/")
    prefix = f"{path}/" if path else ""
    return Endpoint(url.origin, url.origin.authority, prefix, host, text.endswith(_DIGEST_ONLY))


class AddressPolicy(enum.Enum):
    """The addresses a request may connect to."""

    ANYWHERE = enum.auto()
    NOT_LINK_LOCAL = enum.auto()
    NOT_THIS_MACHINE = enum.auto()  # nor link-local
    PUBLIC = enum.auto()

    def allows(self, address: str) -> bool:
        """Whether a request may connect to this IP address."""
        if self is AddressPolicy.ANYWHERE:
            return True
        parsed = read_address(address)
        if parsed is None:
            return False
        if self is AddressPolicy.PUBLIC:
            return is_public(parsed)
        inner = embedded_address(parsed)
        local = inner.is_loopback or inner.is_unspecified
        return not is_link_local(parsed) and not (local and self is AddressPolicy.NOT_THIS_MACHINE)


def policy_for_realm(
    settings: HostSettings, endpoint: Endpoint, realm: Url, *, on_internet: bool
) -> AddressPolicy:
    """Where a token request may connect; `on_internet` tells whether the registry is public.

    Raises AuthError if `realm` is not trusted at all.
    """
    registry, host = endpoint.origin, endpoint.host
    if registry.scheme == "https" and realm.origin.scheme != "https":
        raise _untrusted_realm(realm, host, "it is not https, and the registry is")
    allowed_hosts = settings.token_hosts.get(host, ())
    if realm.origin.host == registry.host or realm.origin.authority in allowed_hosts:
        return AddressPolicy.ANYWHERE
    if settings.strict:
        raise _untrusted_realm(realm, host, "only the registry's own host and listed hosts are")
    if registry.scheme == "http" and not is_loopback(registry.host):
        raise _untrusted_realm(
            realm, host, "it was announced over plain HTTP, where anyone can forge it"
        )
    return AddressPolicy.PUBLIC if on_internet else AddressPolicy.NOT_LINK_LOCAL


def policy_for_link(
    settings: HostSettings, url: Url, origin: Origin, *, on_internet: bool
) -> AddressPolicy:
    """Where a request may connect whose `url` came from the registry at `origin`."""
    if url.origin.host == origin.host:
        return AddressPolicy.ANYWHERE
    if not settings.for_others or is_loopback(origin.host):
        return AddressPolicy.NOT_LINK_LOCAL
    return AddressPolicy.PUBLIC if on_internet else AddressPolicy.NOT_THIS_MACHINE


def _untrusted_realm(realm: Url, host: str, reason: str) -> AuthError:
    return AuthError(
        f"{host} sends its clients to {realm.origin} for a token, which is not trusted: {reason}",
        code="token-server",
        host=host,
        hint="the registry must name a token server on its own host or over https; in Python,"
        " HostSettings.token_hosts can list others",
    )
