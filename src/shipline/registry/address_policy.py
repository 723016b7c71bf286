"""Which addresses a URL sent by a server may lead to: token realms, redirects, Locations, Links.

A realm receives credentials, so it must be the registry's own host, be listed in the settings, or
have been announced by the registry over https and be on the Internet unless the registry is not.
Other links never carry credentials; they must not lead to link-local addresses, where clouds serve
metadata and credentials.
"""

from __future__ import annotations

import enum

from shipline.errors import AuthError
from shipline.net import is_link_local, is_loopback, is_public, read_address
from shipline.registry.hosts import Endpoint, HostSettings
from shipline.registry.origin import Origin, Url


class AddressPolicy(enum.Enum):
    """The addresses a request may connect to."""

    ANYWHERE = enum.auto()
    NOT_LINK_LOCAL = enum.auto()
    PUBLIC = enum.auto()

    def allows(self, address: str) -> bool:
        if self is AddressPolicy.ANYWHERE:
            return True
        parsed = read_address(address)
        if parsed is None:
            return False
        return is_public(parsed) if self is AddressPolicy.PUBLIC else not is_link_local(parsed)


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
    return AddressPolicy.PUBLIC if settings.strict and on_internet else AddressPolicy.NOT_LINK_LOCAL


def _untrusted_realm(realm: Url, host: str, reason: str) -> AuthError:
    return AuthError(
        f"{host} sends its clients to {realm.origin} for a token, which is not trusted: {reason}",
        host=host,
        hint="if that is correct, add the host to the registry's token hosts",
    )
